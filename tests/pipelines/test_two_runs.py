"""Two runs on one store at once, and a run whose process is killed: nothing is made twice, nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import ClassVar

import pytest

from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.machine import this_machine
from llavaflow.infra.store import open_store
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._run import prepare
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Slow(Stage):
    """Writes ten parts, each once, and keeps a diary outside the store of every part it writes."""

    kind: ClassVar[Kind] = "shards"
    number: int
    source: Stage | None = None

    def run(self, ctx: RunContext) -> Artifact:
        for part in range(10):
            target = ctx.out / f"{part}.txt"
            if not target.exists():
                with Path(os.environ["DIARY"]).open("a") as diary:
                    diary.write(f"{self.number}/{part}\n")
                target.write_text(ctx.fingerprint)
                time.sleep(0.03)
        return ctx.finish({"samples": 10})


def toy() -> Recipe:
    first = Slow(number=0)
    second = Slow(number=1, source=first)
    return Recipe(name="toy", stages={"first": first, "second": second})


def run_toy(url: str) -> None:
    run = prepare(toy(), open_store(url), this_machine())
    run.attempt_rest()
    assert run.state == "completed", run.as_json()


def start(url: str) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=run_toy, args=(url,))
    process.start()
    return process


@pytest.fixture
def diary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIARY", str(tmp_path / "diary"))
    return tmp_path / "diary"


EVERY_PART = sorted(f"{number}/{part}" for number in range(2) for part in range(10))


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3_url")) if request.param == "s3" else str(tmp_path / "store")


def test_two_runs_at_once_make_every_stage_once(store_url: str, diary: Path) -> None:
    processes = [start(store_url) for _ in range(2)]
    for process in processes:
        process.join(90)
        assert process.exitcode == 0
    assert sorted(diary.read_text().split()) == EVERY_PART
    assert all(item.artifact for item in prepare(toy(), open_store(store_url), this_machine()).resolved.values())


@pytest.mark.parametrize("parts", [3, 14])
def test_a_killed_run_is_gone_on_with_where_it_was(store_url: str, diary: Path, parts: int) -> None:
    process = start(store_url)
    deadline = time.monotonic() + 60
    while not diary.exists() or len(diary.read_text().split()) < parts:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    run_toy(store_url)
    written = diary.read_text().split()
    # the part in whose middle it died may be written twice, no other
    assert sorted(set(written)) == EVERY_PART and len(written) <= len(EVERY_PART) + 1
    store = open_store(store_url)
    resolved = prepare(toy(), store, this_machine()).resolved
    assert all(item.artifact and store.verify(item.artifact) == [] for item in resolved.values())
