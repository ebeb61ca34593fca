"""The judge over real HTTP: the local double, its ledger, and an endpoint that fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.stages import judge as module
from llavaflow.stages._local_judge import NAME, judge_by_rule
from llavaflow.stages.judge import Judge, endpoint


class Scripted(ThreadingHTTPServer):
    """An OpenAI-compatible server that answers with the given (status, text) in turn, then repeats the last."""

    script: list[tuple[int, str]]
    seen: list[dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Scripted)
        server.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, text = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        document = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        data = json.dumps(document if status == 200 else {"error": {"message": text}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    scripted = Scripted(("127.0.0.1", 0), _Handler)
    scripted.script, scripted.seen = [(200, "8 7")], []
    threading.Thread(target=scripted.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{scripted.server_address[1]}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    yield scripted
    scripted.shutdown()
    scripted.server_close()


def test_call_is_made_once_and_then_read_from_the_ledger(server: Scripted, tmp_path: Path) -> None:
    for _ in range(2):
        with endpoint("m", tmp_path / "l.jsonl") as ask:
            assert ask("p", system="s", temperature=0.2) == "8 7"
    assert len(server.seen) == 1
    assert [message["role"] for message in server.seen[0]["messages"]] == ["system", "user"]
    row = json.loads((tmp_path / "l.jsonl").read_text())
    assert row["model"] == "m" and row["date"].startswith("20") and "test" not in json.dumps(row)
    with endpoint("m", tmp_path / "l.jsonl", run=1) as ask:
        ask("p", system="s", temperature=0.2)
    assert len(server.seen) == 2


def test_busy_server_is_asked_again(server: Scripted, tmp_path: Path) -> None:
    server.script = [(429, "slow down"), (500, "oops"), (200, "9 9")]
    with endpoint("m", tmp_path / "l.jsonl") as ask:
        assert ask("p") == "9 9"
    assert len(server.seen) == 3


def test_refused_content_gives_an_empty_reply_that_is_not_kept(server: Scripted, tmp_path: Path) -> None:
    server.script = [(400, "content filter")]
    with endpoint("m", tmp_path / "l.jsonl") as ask:
        assert ask("p") == ""
    assert not (tmp_path / "l.jsonl").exists()


def test_wrong_key_stops_at_once(server: Scripted, tmp_path: Path) -> None:
    server.script = [(401, "bad key")]
    with endpoint("m", tmp_path / "l.jsonl") as ask, pytest.raises(InputError, match="refuses"):
        ask("p")
    assert len(server.seen) == 1


def test_line_cut_by_a_kill_is_asked_again(server: Scripted, tmp_path: Path) -> None:
    with endpoint("m", tmp_path / "l.jsonl") as ask:
        ask("p")
    (tmp_path / "l.jsonl").write_text((tmp_path / "l.jsonl").read_text() + '{"key": "ab')
    with endpoint("m", tmp_path / "l.jsonl") as ask:
        ask("p"), ask("q")
    assert len(server.seen) == 2
    assert len((tmp_path / "l.jsonl").read_text().splitlines()) == 2


def test_unreachable_judge_fails_and_keeps_what_is_there(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRIES", 0)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with endpoint("m", tmp_path / "l.jsonl") as ask, pytest.raises(StageFailed, match="cannot be reached"):
        ask("p")


def test_missing_key_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match="set OPENAI_API_KEY"), endpoint("gpt-4", tmp_path / "l.jsonl"):
        pass


def test_local_judge_reads_only_the_prompt() -> None:
    prompt = (
        "[Context]\nA red dog.\n\n[Question]\nWhat?\n\n[Assistant 1]\nred dog\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nblue cat\n\n[End of Assistant 2]\n\n[System]\nrule\n\n"
    )
    assert judge_by_rule(prompt).splitlines()[0] == "10.0 1.0"
    assert judge_by_rule("table\nWhat? | two dogs | two cats | ") == "0.5"


def write_questions(root: Path) -> None:
    folder = root / "eval/llava-bench-coco"
    folder.mkdir(parents=True)
    rows = {
        "qa90_questions": {"question_id": 0, "image": "1.jpg", "text": "What is it?", "category": "conv"},
        "qa90_gpt4_answer": {"question_id": 0, "text": "a red dog"},
        "caps_boxes_coco2014_val_80": {"image": "1.jpg", "captions": ["a red dog"], "instances": []},
    }
    for name, row in rows.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")


def write_answers(root: Path) -> None:
    (root / "answers").mkdir()
    row = {"question_id": 0, "prompt": "What is it?", "text": "a blue dog", "answer_id": "x"}
    (root / "answers/llava-bench-coco.jsonl").write_text(json.dumps(row) + "\n")


def test_stage_reviews_with_the_local_judge_in_runs(bench: Any) -> None:
    stage = Judge(
        answers=bench.given("answers", write_answers), questions=bench.given("questions", write_questions), runs=2
    )
    artifact = bench.run(stage)
    root = bench.path(artifact)
    assert artifact.facts["judge"] == NAME and artifact.facts["failed"] == {"llava-bench-coco": 0}
    assert artifact.facts["scores"]["llava-bench-coco"]["score"] == 70.0
    assert len(list((root / "reviews").iterdir())) == 2
    review = json.loads((root / "reviews/llava-bench-coco.0.jsonl").read_text())
    assert set(review) == {"id", "question_id", "answer1_id", "answer2_id", "category", "content", "tuple"}
    assert json.loads((root / "scores.json").read_text())["judge"] == NAME


def test_stage_grades_mmvet_in_its_own_form(bench: Any) -> None:
    def questions(root: Path) -> None:
        (root / "eval/mmvet").mkdir(parents=True)
        row = {"imagename": "v1_0.png", "question": "What?", "answer": "two dogs", "capability": ["rec"]}
        (root / "eval/mmvet/mm-vet.json").write_text(json.dumps({"v1_0": row}))

    def answers(root: Path) -> None:
        (root / "answers").mkdir()
        (root / "answers/mmvet.jsonl").write_text(json.dumps({"question_id": 0, "text": "two cats"}) + "\n")

    given = {"answers": bench.given("answers", answers), "questions": bench.given("questions", questions)}
    artifact = bench.run(Judge(**given, benchmarks=("mmvet",), runs=2))
    assert artifact.facts["scores"]["mmvet"]["score"] == 50.0
    grades = json.loads((bench.path(artifact) / "reviews/mmvet.json").read_text())
    assert grades == {"v1_0": {"model": [NAME, NAME], "content": ["0.5", "0.5"], "score": [0.5, 0.5]}}
