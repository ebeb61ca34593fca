"""Ray through the one module that imports it: order kept, own errors kept, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from llavaflow.infra import ray
from llavaflow.infra.errors import InputError, StageFailed

NODE = ("--num-cpus=2", "--object-store-memory=100000000")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64, "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    yield
    ray.shutdown()


def test_map_batches_keeps_the_order_and_uses_the_pool() -> None:
    # functions made inside the test travel to the workers by value: they need not find this file
    def make(factor: int) -> Callable[[list[int]], list[tuple[int, int]]]:
        return lambda rows: [(row * factor, os.getpid()) for row in rows]

    results = list(ray.map_batches(range(40), make, arguments={"factor": 3}, batch_size=4, workers=2))
    assert [value for value, _ in results] == [3 * row for row in range(40)]
    assert os.getpid() not in {pid for _, pid in results}


def test_an_error_of_the_project_comes_back_as_itself() -> None:
    def make() -> Callable[[list[int]], list[int]]:
        def fail(rows: list[int]) -> list[int]:
            raise StageFailed(f"row {rows[0]} is bad")

        return fail

    with pytest.raises(StageFailed, match="^row 0 is bad$"):
        list(ray.map_batches(range(4), make, batch_size=4, workers=1))


def test_an_error_while_a_worker_starts_comes_back_as_itself() -> None:
    def make() -> Callable[[list[int]], list[int]]:
        raise InputError("no such checkpoint")

    with pytest.raises(InputError, match="^no such checkpoint$"):
        list(ray.map_batches(range(4), make, batch_size=2, workers=1))


def test_no_rows_start_no_actors() -> None:
    def make() -> Callable[[list[int]], list[int]]:
        raise AssertionError("an actor was started for nothing")

    assert list(ray.map_batches([], make, batch_size=4, workers=2)) == []


def test_nothing_of_ray_survives_a_killed_driver(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(
        "import time\nfrom llavaflow.infra import ray\nray.session()\nprint('up', flush=True)\ntime.sleep(60)\n",
        "utf-8",
    )
    driver = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stdout=subprocess.PIPE)
    assert driver.stdout is not None and driver.stdout.readline() == b"up\n"
    own = f"{ray.TEMPORARY_PREFIX}{driver.pid}"
    assert _processes(own)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 20
    while _processes(own) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _processes(own) == []


def test_a_job_that_the_cluster_can_never_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs 64 GPUs, it has"):
        ray.train(print, workers=64, config={}, storage=tmp_path, gpus_per_worker=1)


def test_a_cluster_that_does_not_answer_is_refused_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    for address, why in (("127.0.0.1:1", "nothing answers there"), ("head", "has the form HOST:PORT")):
        monkeypatch.setenv("RAY_ADDRESS", address)
        begun = time.monotonic()
        with pytest.raises(InputError, match=f"cannot join the Ray cluster at {address} .*{why}.*Unset RAY_ADDRESS"):
            ray.session()
        assert time.monotonic() - begun < 10


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a cluster of one node that asks for a token, as Ray has it by default where one was made."""
    # the path of a socket holds 107 bytes
    with tempfile.TemporaryDirectory(prefix="llavaflow-head-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        _ray("start", "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}", *NODE)
        try:
            # Ray takes a loopback address for the one by which other machines reach this one
            yield f"{get_node_ip_address()}:{port}"
        finally:
            for process in _processes(folder):
                os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_is_joined_with_it(head: str) -> None:
    body = "print(*ray.map_batches(range(4), lambda: lambda rows: [2 * row for row in rows], batch_size=2, workers=1))"
    assert _driver(head, body) == "0 2 4 6"
    assert re.search("cannot join .* set RAY_AUTH_MODE=token", _driver(head, "ray.session()", RAY_AUTH_MODE="disabled"))


@pytest.mark.slow
def test_a_node_that_does_not_see_the_files_is_named(head: str, tmp_path: Path) -> None:
    """The second node has another file system at the same path, as a machine without the shared one has."""
    apart = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs apart {tmp_path} && exec \"$@\"", "node"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    _ray("start", f"--address={head}", *NODE, before=apart)
    body = f"ray.train(print, workers=4, config={{}}, storage=Path({str(tmp_path)!r}, 'storage'), files=[])"
    assert f"does not see {tmp_path}/storage as this one does. Every node must" in _driver(head, body)


def _driver(address: str, body: str, **environment: str) -> str:
    """What a process of its own prints that joins a cluster; Ray reads how to prove itself once in a process."""
    imports = ["from pathlib import Path", "from llavaflow.infra import errors, ray"]
    lines = [*imports, "try:", f"    {body}", "except errors.InputError as error:", "    print(error)"]
    environment = {**os.environ, **TOKEN, "RAY_ADDRESS": address, **environment}
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout.strip() or done.stderr


def _ray(*words: str, before: Sequence[str] = ()) -> None:
    """A `ray` command that must end well."""
    command = [*before, str(Path(sys.executable).with_name("ray")), *words]
    done = subprocess.run(command, env={**os.environ, **TOKEN}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def _processes(word: str) -> list[int]:
    """Live processes whose command lines name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(int(path.parent.name))
    return found
