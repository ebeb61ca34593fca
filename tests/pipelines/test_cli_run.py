"""`pipeline run` from outside: exit codes, the JSON contract, one Prefect flow run, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llavaflow.infra.store import ArtifactStore
from llavaflow.pipelines._recipe import Recipe
from llavaflow.tests.pipelines.conftest import TOY, Command
from llavaflow.tests.pipelines.runs import make


def test_everything_found_ends_without_prefect_ray_or_torch(toy: Recipe, store: ArtifactStore, tmp_path: Path) -> None:
    make(toy, store)
    code = (
        "import sys; from llavaflow.pipelines._cli.main import main;"
        f"code = main(['run', {str(TOY)!r}, '--store', {store.url!r}, '--json']);"
        "heavy = {'prefect', 'ray', 'torch'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["recipe"] == "toy" and document["state"] == "completed" and document["run_id"]
    assert [row["state"] for row in document["stages"]] == ["found"] * 4
    first = document["stages"][0]
    assert set(first) == {"name", "state", "fingerprint", "uri", "seconds", "facts"}
    assert first["facts"]["samples"] == 10 and Path(first["uri"], "record.json").exists()


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(
    pipeline: Command, toy: Recipe, store: ArtifactStore
) -> None:
    make(toy, store, stage="scale")
    told = pipeline("run", TOY, "--dry-run", "--json")
    rows = {row["name"]: row for row in told.json["stages"]}
    assert told.code == 0 and told.json["state"] == "planned"
    assert [rows[name]["state"] for name in rows] == ["found", "found", "skipped", "skipped"]
    assert "never built" in rows["learn"]["why"]
    assert not list(store.records())[2:]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nothing"], "unknown recipe 'nothing'"),
        ([TOY, "--stage", "lern"], "Did you mean learn"),
        ([TOY, "--set", "learn.learning_rate=fast"], "a number"),
        ([TOY, "--machine", "a100"], "unknown machine 'a100'"),
        ([TOY, "--only", "learn"], "needs scale"),
        ([TOY, "--bogus"], "No such option"),
        (["missing.py"], "no recipe file"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(pipeline: Command, args: list[object], told: str) -> None:
    said = pipeline("run", *args, "--json")
    assert said.code == 2
    assert told in said.err and "Traceback" not in said.err
    assert told in said.json["error"]["message"] and said.json["error"]["exit_code"] == 2


def test_an_unusable_store_is_one_message_and_exit_code_1(pipeline: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    told = pipeline("run", TOY, "--store", tmp_path / "file" / "store")
    assert told.code == 1
    assert "--store" in told.err and "Traceback" not in told.err


# store, exit code, stdout, stderr
Finished = tuple[Path, int, str, str]


class Launched:
    """A command in a process of its own. `like` lends a Prefect folder whose database is ready, to save time."""

    def __init__(self, store: Path, *args: str, like: Path | None = None, command: str = "run") -> None:
        if like:
            shutil.copytree(like / "prefect", store / "prefect")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        words = ["-m", "llavaflow.pipelines", command, str(TOY), "--store", str(store), "--json", *args]
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=store.parent,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


def processes_of(store: Path) -> list[str]:
    """Command lines of the processes that work on a store's Prefect folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if str(store).encode() in environment:
            found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def rows_of(store: Path, query: str) -> Iterator[tuple[str, ...]]:
    with sqlite3.connect(store / "prefect" / "prefect.db") as database:
        yield from database.execute(query)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run with Prefect, shared by the tests that look at what it left."""
    store = tmp_path_factory.mktemp("flow") / "store"
    return store, *Launched(store, "--set", "draw.seed=5").end()


def test_a_run_is_one_flow_run_with_a_task_for_each_stage(first_run: Finished) -> None:
    store, code, out, err = first_run
    assert code == 0, err
    assert [row["state"] for row in json.loads(out)["stages"]] == ["built"] * 4
    assert "printed by a stage" in err and "printed by a child" in err
    run_id = json.loads(out)["run_id"]
    assert list(rows_of(store, "select name, state_type from flow_run")) == [(f"toy-{run_id}", "COMPLETED")]
    assert list(rows_of(store, "select name from flow")) == [("toy",)]
    tasks = sorted(rows_of(store, "select name, state_type from task_run"))
    assert tasks == [(name, "COMPLETED") for name in ("draw", "learn", "scale", "score")]


def test_each_stage_leaves_its_tables_on_the_page(first_run: Finished) -> None:
    store = first_run[0]
    artifacts = dict(rows_of(store, "select key, data from artifact"))
    assert {f"toy-{name}-counts" for name in ("draw", "scale", "learn", "score")} <= set(artifacts)
    assert "| samples | 10 |" in json.loads(artifacts["toy-draw-counts"])
    assert "too-small" in artifacts["toy-draw-counts"]
    assert "All right." in artifacts["toy-score-report"]


def test_no_process_is_left_after_a_run(first_run: Finished) -> None:
    assert processes_of(first_run[0]) == []


def test_a_failed_stage_is_a_failed_flow_run_and_exit_code_1(first_run: Finished, tmp_path: Path) -> None:
    store = tmp_path / "store"
    code, out, err = Launched(store, "--set", "learn.fail=gate", like=first_run[0]).end()
    assert code == 1
    assert [row["state"] for row in json.loads(out)["stages"]] == ["built", "built", "failed", "skipped"]
    assert "loss is not a number" in err and "Traceback" not in err
    assert json.loads(out)["error"]["stage"] == "learn"
    assert [state for (state,) in rows_of(store, "select state_type from flow_run")][1:] == ["FAILED"]
    assert processes_of(store) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_exits_130_and_leaves_nothing_running(
    first_run: Finished, tmp_path: Path, sent: signal.Signals
) -> None:
    store = tmp_path / "store"
    run = Launched(store, "--set", "draw.sleep_s=60", like=first_run[0])
    _wait_for_stage(store)
    os.kill(run.process.pid, sent)
    code, out, err = run.end()
    assert code == 130, err
    assert json.loads(out)["state"] == "interrupted" and "Traceback" not in err
    assert processes_of(store) == []


def test_a_killed_run_takes_its_server_along(first_run: Finished, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = Launched(store, "--set", "draw.sleep_s=60", like=first_run[0])
    _wait_for_stage(store)
    run.process.kill()
    run.process.wait()
    deadline = time.monotonic() + 10
    while processes_of(store) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(store) == []


@pytest.mark.slow
def test_a_server_that_dies_is_replaced_and_the_run_is_on_record(first_run: Finished, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = Launched(store, "--set", "draw.sleep_s=5", like=first_run[0])
    _wait_for_stage(store)
    for entry in Path("/proc").glob("[0-9]*"):
        words = (entry / "cmdline").read_bytes().split(b"\0") if (entry / "cmdline").exists() else []
        if b"llavaflow.infra.prefect" in words and str(run.process.pid).encode() in words:
            os.kill(int(entry.name), signal.SIGKILL)
    code, out, err = run.end()
    assert code == 0, err
    run_id = json.loads(out)["run_id"]
    assert (f"toy-{run_id}", "COMPLETED") in list(rows_of(store, "select name, state_type from flow_run"))
    assert processes_of(store) == []


def _wait_for_stage(store: Path) -> None:
    """Until the first stage is being made."""
    deadline = time.monotonic() + 100
    while not list(store.glob("leases/*.json")):
        assert time.monotonic() < deadline, "no stage was started"
        time.sleep(0.1)
    time.sleep(0.5)


@pytest.mark.slow
def test_a_deployment_refreshes_by_its_schedule(first_run: Finished, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = Launched(store, "--cron", "* * * * *", command="deploy", like=first_run[0])
    query = "select state_type from flow_run where deployment_id is not null and state_type != 'SCHEDULED'"
    deadline = time.monotonic() + 200
    while ("COMPLETED",) not in list(rows_of(store, query)) and time.monotonic() < deadline:
        time.sleep(1)
    run.process.send_signal(signal.SIGINT)
    _, out, err = run.end()
    assert list(rows_of(store, query))[0] == ("COMPLETED",), err
    assert json.loads(out)["deployment"] == "toy/refresh-draw"
    assert len(list(store.glob("checkpoint/*/record.json"))) >= 1
    assert processes_of(store) == []
