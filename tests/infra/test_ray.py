"""Ray through the one module that imports it: order kept, own errors kept, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llavaflow.infra import ray
from llavaflow.infra.errors import InputError, StageFailed


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


def _processes(word: str) -> list[str]:
    """Command lines of live processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found
