"""Leases, on a folder and on S3: one owner at a time, and a dead owner does not block anyone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from llavaflow.infra.backend import Backend
from llavaflow.infra.context import folder_context
from llavaflow.infra.errors import StoreBusy
from llavaflow.infra.lease import Lease, is_gone, this_process
from llavaflow.infra.store import open_store
from llavaflow.tests.infra.test_store import Write

HOLD = """
import sys, time
from llavaflow.infra.store import open_store
from llavaflow.tests.infra.test_store import Write
with open_store(sys.argv[1]).lease("f1"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(url: str) -> subprocess.Popen[str]:
    """Another process that holds the lease `f1`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_live_owner_is_named_and_a_killed_one_is_replaced_at_once(store_url: str) -> None:
    process = hold(store_url)
    with pytest.raises(StoreBusy, match=f"process {process.pid} on .* is making f1"), open_store(store_url).lease("f1"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    # not yet reaped by us, so its pid still exists
    started = time.monotonic()
    with open_store(store_url).lease("f1", wait_s=5):
        assert time.monotonic() - started < 3
    process.wait()


def test_a_freed_lease_can_be_taken_again(store_url: str) -> None:
    for _ in range(3):
        with open_store(store_url).lease("f1"):
            pass


def test_waiting_ends_when_the_owner_is_done(store_url: str) -> None:
    first = open_store(store_url).lease("f1")
    first.__enter__()
    told: list[str] = []

    def on_wait(text: str) -> None:
        told.append(text)
        first.__exit__(None, None, None)

    with open_store(store_url).lease("f1", wait_s=10, on_wait=on_wait):
        assert len(told) == 1 and "is making f1" in told[0]


def foreign(backend: Backend, *, heartbeat: float) -> None:
    """A lease held by a process on another machine."""
    owner = replace(this_process(), host="elsewhere:1234:1", pid=1, heartbeat=heartbeat)
    backend.write("leases/f1.json", json.dumps(asdict(owner)).encode())


def test_a_live_owner_elsewhere_is_respected(store_url: str) -> None:
    store = open_store(store_url)
    foreign(store.backend, heartbeat=time.time() - 5)
    with pytest.raises(StoreBusy, match="process 1 on elsewhere"), store.lease("f1"):
        pass


def test_a_silent_owner_elsewhere_is_replaced_after_a_watch(store_url: str) -> None:
    backend = open_store(store_url).backend
    foreign(backend, heartbeat=time.time() - 100)
    with Lease(backend, "f1", heartbeat_s=0.2, watch_s=0.5):
        pass


def test_an_owner_elsewhere_whose_clock_is_late_is_not_robbed(store_url: str) -> None:
    backend, ended = open_store(store_url).backend, threading.Event()

    def beat() -> None:
        while not ended.wait(0.1):
            foreign(backend, heartbeat=time.time() - 100)

    foreign(backend, heartbeat=time.time() - 100)
    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(StoreBusy), Lease(backend, "f1", heartbeat_s=0.2, watch_s=2.0):
            pass
    finally:
        ended.set()
        beating.join()


def test_a_heartbeat_is_renewed(store_url: str) -> None:
    store = open_store(store_url)
    with Lease(store.backend, "f1", heartbeat_s=0.1):
        first = store.backend.read("leases/f1.json")
        time.sleep(0.5)
        second = store.backend.read("leases/f1.json")
    assert first and second and first.data != second.data


def test_an_owner_that_lost_its_lease_may_not_publish(store_url: str) -> None:
    store = open_store(store_url)
    with store.lease("f1") as lease:
        foreign(store.backend, heartbeat=time.time())
        with pytest.raises(StoreBusy, match="lost the hold on f1"):
            lease.confirm()


def test_a_stage_whose_lease_was_lost_does_not_commit(store_url: str) -> None:
    ctx = folder_context(store_url, Write())
    with pytest.raises(StoreBusy, match="lost the hold"), ctx.store.lease(ctx.fingerprint):
        owner = replace(this_process(), host="elsewhere:1234:1", pid=1)
        ctx.store.backend.write(f"leases/{ctx.fingerprint}.json", json.dumps(asdict(owner)).encode())
        Write().run(ctx)
    assert ctx.store.find(ctx.fingerprint) is None


def test_a_reused_pid_is_not_taken_for_the_owner() -> None:
    me = this_process()
    assert not is_gone(me)
    assert is_gone(replace(me, started=me.started - 100))
    assert is_gone(replace(me, pid=2**22 - 1))


def compete(url: str, log: Path, number: int) -> None:
    for _ in range(3):
        with open_store(url).lease("f1", wait_s=30):
            with log.open("a") as stream:
                stream.write(f"{number} in\n")
                stream.flush()
                time.sleep(0.02)
                stream.write(f"{number} out\n")


def test_of_several_processes_only_one_holds_it_at_a_time(store_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=compete, args=(store_url, log, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    lines = log.read_text().splitlines()
    assert len(lines) == 18
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert entered.split()[0] == left.split()[0] and entered.endswith("in") and left.endswith("out")
