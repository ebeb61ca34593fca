"""Training that is killed, interrupted or loses a node: it ends with the weights of a run that nothing happened to."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.artifact import Artifact
from llavaflow.infra.machine import Machine
from llavaflow.infra.store import open_store
from llavaflow.stages._training_log import read_log
from llavaflow.tests.stages.conftest import Bench
from llavaflow.tests.stages.train_runs import STATES, OneWorker, changed, finetune, furthest, losses, weights

pytestmark = pytest.mark.slow

WHOLE: dict[str, Any] = {}
# the ids of two epochs
TWICE = sorted(2 * [f"s{number}" for number in range(48)])
PROJECTOR = {"trainable": ["mm_projector"]}
ADAPTERS = {"lora": {"r": 4, "alpha": 8}}
MARK = "LLAVAFLOW_TEST_MARK"

Unbroken = Callable[[str], tuple[Bench, Artifact]]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray cluster for this file, gone with it."""
    from llavaflow.infra import ray

    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, toy_foundation: Path) -> Unbroken:
    """The same run without a kill, made once for all tests that compare with it."""
    made: dict[str, tuple[Bench, Artifact]] = {}

    def run(changes: str) -> tuple[Bench, Artifact]:
        if changes not in made:
            bench = Bench(store=open_store(tmp_path_factory.mktemp("unbroken")))
            made[changes] = bench, bench.run(finetune(bench, toy_foundation, **changed(changes)))
        return made[changes]

    return run


class Launched:
    """A run in a session of its own; every process of it carries a mark in its environment."""

    def __init__(self, store: Path, foundation: Path, changes: str, *flags: str) -> None:
        self.store, self.mark = store, uuid.uuid4().hex
        command = [sys.executable, "-m", "llavaflow.tests.stages.train_runs", str(store), str(foundation), changes]
        self.process = subprocess.Popen(
            [*command, *flags],
            start_new_session=True,
            env={**os.environ, MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def wait_for_state(self) -> None:
        while not list(self.store.glob(STATES)):
            assert self.process.poll() is None, "ended before its first training state"
            time.sleep(0.02)

    def send(self, sent: signal.Signals) -> None:
        os.killpg(self.process.pid, sent)

    def end(self) -> str:
        out, _ = self.process.communicate(timeout=500)
        return out

    def survivors(self, wait_s: float = 30) -> list[str]:
        """Command lines of its processes that still live; daemons get a moment to see that their driver is gone."""
        until = time.monotonic() + wait_s
        while (alive := marked(self.mark)) and time.monotonic() < until:
            time.sleep(0.2)
        return alive


def marked(mark: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def killed(store: Path, foundation: Path, changes: str, seed: int, *flags: str) -> None:
    """A run that is killed at a random moment after its first training state and leaves no process."""
    run = Launched(store, foundation, changes, *flags)
    run.wait_for_state()
    time.sleep(random.Random(seed).uniform(0, 1.5))
    run.send(signal.SIGKILL)
    run.end()
    assert run.survivors() == []


@pytest.mark.parametrize(("zero", "before", "after"), [(2, 2, 1), (3, 2, 1), (2, 1, 2), (3, 1, 2)])
def test_a_killed_run_goes_on_with_another_number_of_workers(
    toy_foundation: Path, tmp_path: Path, unbroken: Unbroken, zero: int, before: int, after: int
) -> None:
    changes = json.dumps({"zero": zero})
    killed(tmp_path, toy_foundation, changes, 0, *(["--one-worker"] if before == 1 else []))
    other = Bench(store=open_store(tmp_path))
    stage = finetune(other, toy_foundation, zero=zero)
    machine = (OneWorker if after == 1 else Machine)(kind="cpu", cores=2)
    ended = stage.run(replace(other.context(stage), machine=machine))
    bench, whole = unbroken(changes)
    assert ended.facts["samples"] == 48
    assert seen(other, ended) == TWICE
    assert losses(other, ended) == pytest.approx(losses(bench, whole), abs=1e-5)
    assert furthest(weights(other, ended), weights(bench, whole)) < 1e-5


@pytest.mark.parametrize(
    ("zero", "seed", "trained"),
    [(2, 1, WHOLE), (3, 2, WHOLE), (3, 3, WHOLE), (2, 4, PROJECTOR), (2, 5, ADAPTERS), (3, 6, ADAPTERS)],
    ids=["2-1", "3-2", "3-3", "2-4-projector", "2-5-adapters", "3-6-adapters"],
)
def test_killed_run_ends_with_the_weights_of_an_unbroken_one(
    toy_foundation: Path, tmp_path: Path, unbroken: Unbroken, zero: int, seed: int, trained: dict[str, Any]
) -> None:
    changes = json.dumps({"zero": zero, **trained})
    killed(tmp_path, toy_foundation, changes, seed)
    again = Launched(tmp_path, toy_foundation, changes)
    again.end()
    assert again.process.returncode == 0
    compare(tmp_path, *unbroken(changes))


def test_a_lost_node_is_replaced_and_the_run_goes_on(toy_foundation: Path, tmp_path: Path, unbroken: Unbroken) -> None:
    changes = json.dumps({"zero": 2})
    run = Launched(tmp_path, toy_foundation, changes, "--lose-a-node")
    out = run.end()
    assert run.process.returncode == 0
    steps = int(out.split("lost a node after ")[1].split()[0])
    assert 2 <= steps < 8
    compare(tmp_path, *unbroken(changes))
    assert run.survivors() == []


def test_an_interrupt_leaves_no_process_and_the_run_goes_on(
    toy_foundation: Path, tmp_path: Path, unbroken: Unbroken
) -> None:
    changes = json.dumps({"zero": 2})
    run = Launched(tmp_path, toy_foundation, changes)
    run.wait_for_state()
    # as a terminal does: to every process of the group
    run.send(signal.SIGINT)
    run.end()
    assert run.process.returncode not in (0, -signal.SIGKILL)
    assert run.survivors() == []
    again = Launched(tmp_path, toy_foundation, changes)
    again.end()
    compare(tmp_path, *unbroken(changes))


def seen(bench: Bench, artifact: Artifact) -> list[str]:
    """The ids of all samples that were trained on, as the workers held them; every step stands once."""
    rows = read_log(bench.path(artifact) / "seen.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    return sorted(name for row in rows for name in row["ids"])


def compare(store: Path, bench: Bench, whole: Artifact) -> None:
    """The artifact of the same fingerprint in a store has the losses, exactly, and the weights."""
    other = Bench(store=open_store(store))
    artifact = other.store.find(whole.fingerprint)
    assert artifact is not None
    assert losses(other, artifact) == losses(bench, whole)
    assert seen(other, artifact) == seen(bench, whole) == TWICE
    assert furthest(weights(other, artifact), weights(bench, whole)) < 1e-5
