"""Synthesize: records with parents from any service, nothing paid twice, and a budget that stops before its limit."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavaflow.datasets._index import read_index, read_row, sha256_bytes
from llavaflow.datasets._shards import ImageTable
from llavaflow.infra.context import Budget
from llavaflow.infra.errors import BudgetExceeded, InputError, StageFailed
from llavaflow.stages import _chat
from llavaflow.stages._teacher import TITLE, RuleTeacher, _Handler, _Server
from llavaflow.stages._teacher_rules import answer
from llavaflow.stages.synthesize import Synthesize

IMAGES = 12


def write_coco(root: Path) -> None:
    """A COCO folder in which every image has captions, the even ones a box, and the last one no file."""
    annotations = root / "raw/coco/annotations"
    annotations.mkdir(parents=True)
    (root / "raw/coco/train2017").mkdir()
    listed = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 80, "height": 60} for n in range(IMAGES)]
    for image in listed[:-1]:
        buffer = io.BytesIO()
        Image.new("RGB", (80, 60), (image["id"] * 20, 0, 0)).save(buffer, "JPEG")
        (root / "raw/coco/train2017" / image["file_name"]).write_bytes(buffer.getvalue())
    colours = ["red", "blue", "green"]
    captions = [
        {"id": 100 + 5 * n + k, "image_id": n, "caption": text}
        for n in range(IMAGES)
        for k, text in enumerate([f"A {colours[n % 3]} ball number {n} on the grass.", f"A {colours[n % 3]} ball."])
    ]
    boxes = [
        {"id": 10 * n, "image_id": n, "category_id": 1, "bbox": [8, 6, 16, 12], "iscrowd": 0}
        for n in range(0, IMAGES, 2)
    ]
    categories = [{"id": 1, "name": "ball"}]
    document = {"images": listed, "annotations": captions}
    (annotations / "captions_train2017.json").write_text(json.dumps(document))
    (annotations / "instances_train2017.json").write_text(
        json.dumps({"images": listed, "annotations": boxes, "categories": categories})
    )


COUNTS = {"conversation": 100, "detail": 100, "complex": 100}
# images with a file and, for detail and complex, with a box
SAMPLES = 11 + 6 + 6


@pytest.fixture
def stage(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Synthesize:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_chat, "FIRST_WAIT_S", 0.01)
    return Synthesize(data=bench.given("world", write_coco), **COUNTS)


@contextmanager
def service(monkeypatch: pytest.MonkeyPatch, *statuses: int, delay_s: float = 0.0) -> Iterator[Counter[str]]:
    """A paid service: the first requests meet these statuses; counts how often each request was answered."""
    answered: Counter[str] = Counter()
    trouble = list(statuses)
    lock = threading.Lock()

    class Handler(_Handler):
        def do_POST(self) -> None:
            with lock:
                status = trouble.pop(0) if trouble else 200
            if status != 200:
                self.rfile.read(int(self.headers["Content-Length"]))
                code = "insufficient_quota" if status == 402 else None
                body = {"error": {"message": "trouble", "code": code}}
                self.send_json(body, 429 if status == 402 else status)
                return
            time.sleep(delay_s)
            answered[self.headers.get("Idempotency-Key", self.path)] += 1
            super().do_POST()

    server = _Server(answer)
    server.RequestHandlerClass = Handler
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}/v1")
    yield answered
    monkeypatch.delenv("OPENAI_BASE_URL")
    ThreadingHTTPServer.shutdown(server)
    server.server_close()


def records(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "data.jsonl").read_text().splitlines()]


def test_records_images_and_parents(bench: Any, stage: Synthesize) -> None:
    artifact = bench.run(stage)
    assert artifact.facts["samples"] == SAMPLES and artifact.facts["dropped"] == {"missing-image": 1}
    assert artifact.facts["kinds"] == {"conversation": 11, "detail": 6, "complex": 6}
    assert f"Written by {TITLE}" in bench.card(artifact)
    assert "complex 6, conversation 11, detail 6" in bench.card(artifact)
    assert artifact.facts["teacher"] == TITLE and artifact.facts["tokens"] > 0
    root, up = bench.path(artifact), bench.built[stage.data].fingerprint
    images = ImageTable(root)
    for record in records(root):
        assert record["image"] in images and images.size(record["image"]) == (80, 60)
        turns = record["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert sum("<image>" in turn["value"] for turn in turns) == 1 and "<image>" in turns[0]["value"]
    rows = {row["id"]: row for row in read_index(root).to_pylist()}
    for row in rows.values():
        assert sha256_bytes(read_row(root, row["file"], row["row"])) == row["sha256"]
    assert rows["conversation/000000000002"]["parents"] == [
        f"{up}:coco:caption/110",
        f"{up}:coco:caption/111",
        f"{up}:coco:image/000000000002.jpg",
    ]
    assert f"{up}:coco:instance/20" in rows["detail/000000000002"]["parents"]
    assert rows["image/coco/train2017/000000000002.jpg"]["parents"] == [f"{up}:coco:image/000000000002.jpg"]


def test_every_path_gives_the_same_records(bench: Any, stage: Synthesize, monkeypatch: pytest.MonkeyPatch) -> None:
    local = (bench.path(bench.run(stage)) / "data.jsonl").read_bytes()
    batch = Synthesize(data=stage.data, **COUNTS, batch=True)
    assert (bench.path(bench.run(batch)) / "data.jsonl").read_bytes() == local
    with service(monkeypatch):
        remote = bench.run(stage, generation=1)
    assert (bench.path(remote) / "data.jsonl").read_bytes() == local
    assert remote.facts["teacher"] == "rule-teacher at 127.0.0.1"


def test_another_teacher_is_not_noticed(bench: Any, stage: Synthesize, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(system: str, context: str) -> str:
        if "describe the scene" in system:
            return "It is a place."
        return "Question:\nWhat is it?\n===\nAnswer:\nA place."

    with RuleTeacher(other) as teacher:
        monkeypatch.setenv("OPENAI_BASE_URL", teacher.base_url)
        artifact = bench.run(stage)
    assert artifact.facts["samples"] == SAMPLES
    assert {record["conversations"][-1]["value"] for record in records(bench.path(artifact))} == {
        "A place.",
        "It is a place.",
    }


def test_rate_limits_and_failing_servers_are_waited_for(bench: Any, stage: Synthesize, monkeypatch: Any) -> None:
    with service(monkeypatch, 429, 500, 503, 429, 429) as answered:
        assert bench.run(stage).facts["samples"] == SAMPLES
    assert len(answered) == SAMPLES and set(answered.values()) == {1}


def test_a_refused_request_is_dropped_by_name(bench: Any, stage: Synthesize, monkeypatch: Any) -> None:
    with service(monkeypatch, 400):
        artifact = bench.run(stage)
    assert artifact.facts["dropped"] == {"missing-image": 1, "refused": 1}
    assert artifact.facts["samples"] == SAMPLES - 1


@pytest.mark.parametrize(
    "status,message", [(401, "refused the key"), (404, "Check OPENAI_API_KEY"), (402, "no quota left")]
)
def test_what_fails_for_all_stops_at_once(
    bench: Any, stage: Synthesize, monkeypatch: Any, status: int, message: str
) -> None:
    with service(monkeypatch, *[status] * 8) as answered, pytest.raises(StageFailed, match=message):
        bench.run(stage)
    assert len(answered) < SAMPLES


@pytest.mark.parametrize("batch", [False, True])
def test_the_budget_stops_before_the_limit_and_nothing_is_paid_twice(
    bench: Any, stage: Synthesize, monkeypatch: Any, batch: bool
) -> None:
    paid = Synthesize(data=stage.data, **COUNTS, max_tokens=400, concurrency=2, batch=batch)
    with service(monkeypatch) as answered:
        with pytest.raises(BudgetExceeded, match="Raise --max-tokens and run again"):
            bench.run(paid, budget=Budget(max_tokens=20_000))
        ledger = bench.context(paid).work / "requests.jsonl"
        replies = [json.loads(line) for line in ledger.read_text().splitlines()]
        spent = [row["input_tokens"] + row["output_tokens"] for row in replies if row["event"] == "answered"]
        assert 0 < len(spent) < SAMPLES and sum(spent) <= 20_000
        artifact = bench.run(paid, budget=Budget(max_tokens=1_000_000))
    assert artifact.facts["samples"] == SAMPLES
    if not batch:
        assert len(answered) == SAMPLES and set(answered.values()) == {1}


def test_a_limit_in_money_needs_a_price(bench: Any, stage: Synthesize, monkeypatch: Any) -> None:
    with service(monkeypatch), pytest.raises(InputError, match="input_usd"):
        bench.run(stage, budget=Budget(max_usd=1.0))
    priced = Synthesize(data=stage.data, **COUNTS, input_usd=30.0, output_usd=60.0)
    with service(monkeypatch), pytest.raises(BudgetExceeded, match="0.10 USD"):
        bench.run(priced, budget=Budget(max_usd=0.1))


def test_a_service_that_is_not_there_is_named(bench: Any, stage: Synthesize) -> None:
    with pytest.raises(InputError, match="OPENAI_API_KEY are not set"):
        bench.run(Synthesize(data=stage.data, model="gpt-4"))


def test_a_refresh_asks_only_what_is_new(bench: Any, stage: Synthesize, monkeypatch: Any) -> None:
    few = Synthesize(data=stage.data, conversation=5, detail=0, complex=0)
    first = bench.run(few)
    with service(monkeypatch) as answered:
        second = bench.run(stage, previous=first)
    assert second.facts["reused"] == 5 and len(answered) == SAMPLES - 5


def test_useless_answers_fail_the_stage(bench: Any, stage: Synthesize, monkeypatch: Any) -> None:
    with RuleTeacher(lambda system, context: "I cannot help with that.") as teacher:
        monkeypatch.setenv("OPENAI_BASE_URL", teacher.base_url)
        with pytest.raises(StageFailed, match=r"only 6 of 23 answers(.|\n)*unlabelled-block 17"):
            bench.run(stage)


DRIVER = """
import sys
from pathlib import Path
from llavaflow.infra.context import RunContext
from llavaflow.infra.machine import Machine
from llavaflow.infra.store import open_store
from llavaflow.stages.synthesize import Synthesize
data, out, work = map(Path, sys.argv[1:])
Synthesize(data=data, conversation=100, detail=100, complex=100, concurrency=2).run(RunContext(
    store=open_store(out), machine=Machine(kind="cpu"), recipe="r", run_id="1", stage="synthesize", kind="mixture",
    fingerprint="f", out=out, work=work))
"""


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_killed_in_the_middle_it_pays_only_for_what_was_in_flight(
    bench: Any, tmp_path: Path, monkeypatch: Any, seed: int
) -> None:
    write_coco(tmp_path / "data")
    stage = Synthesize(data=tmp_path / "data", **COUNTS, concurrency=2)
    with service(monkeypatch, delay_s=0.05) as answered:
        ctx = bench.context(stage)
        places = [str(path) for path in (tmp_path / "data", ctx.out, ctx.work)]
        killed = subprocess.Popen([sys.executable, "-c", DRIVER, *places])
        ledger = ctx.work / "requests.jsonl"
        while not ledger.exists() or "answered" not in ledger.read_text():
            assert killed.poll() is None
            time.sleep(0.005)
        time.sleep(random.Random(seed).uniform(0, 0.3))
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        paid = {json.loads(line)["request"] for line in ledger.read_text().splitlines() if '"answered"' in line}
        assert 0 < len(paid) < SAMPLES
        artifact = stage.run(ctx)
    assert artifact.facts["samples"] == SAMPLES
    assert all(answered[request] == 1 for request in paid), "a request in the ledger is never asked again"
    assert sum(answered.values()) <= SAMPLES + 2, "at most the two in flight were asked twice, under the same key"
