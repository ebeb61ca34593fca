"""Judging over real HTTP: the local double, the shared ledger, runs, and a service that fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets.benchmarks._benchmark import Prompt
from llavaflow.infra.context import Budget
from llavaflow.infra.errors import BudgetExceeded, InputError, StageFailed
from llavaflow.stages import _chat
from llavaflow.stages._judging import Judging, open_reviewer
from llavaflow.stages._local_judge import NAME, judge_by_rule
from llavaflow.stages._teacher import RuleTeacher


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
        self.send_header("retry-after", "0")
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


def asked(path: Path, *prompts: Prompt, judging: Judging | None = None) -> list[str]:
    with open_reviewer(judging or Judging(model="m"), path) as reviewer:
        return reviewer(prompts)


def test_a_prompt_is_asked_once_and_then_read_from_the_ledger(server: Scripted, tmp_path: Path) -> None:
    prompt = Prompt(text="p", system="s", temperature=0.2)
    for _ in range(2):
        assert asked(tmp_path / "l.jsonl", prompt) == ["8 7"]
    assert len(server.seen) == 1
    assert [message["role"] for message in server.seen[0]["messages"]] == ["system", "user"]
    assert "test" not in (tmp_path / "l.jsonl").read_text(), "the key stays out of the ledger"


def test_runs_and_attempts_are_draws_of_their_own(server: Scripted, tmp_path: Path) -> None:
    draws = [Prompt(text="p", run=run, attempt=attempt) for run in range(2) for attempt in range(2)]
    for _ in range(2):
        asked(tmp_path / "l.jsonl", *draws)
    assert len(server.seen) == 4


def test_a_busy_service_is_asked_again(server: Scripted, tmp_path: Path) -> None:
    server.script = [(429, "slow down"), (500, "oops"), (200, "9 9")]
    assert asked(tmp_path / "l.jsonl", Prompt(text="p")) == ["9 9"]
    assert len(server.seen) == 3


@pytest.mark.parametrize("status", [400, 500])
def test_a_call_that_keeps_failing_is_an_empty_reply(
    server: Scripted, tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_chat, "MAX_ATTEMPTS", 2)
    server.script = [(status, "cannot")]
    assert asked(tmp_path / "l.jsonl", Prompt(text="p")) == [""]


def test_a_refused_key_stops_at_once(server: Scripted, tmp_path: Path) -> None:
    server.script = [(401, "bad key")]
    with pytest.raises(StageFailed, match="refused the key"):
        asked(tmp_path / "l.jsonl", Prompt(text="p"))
    assert len(server.seen) == 1


def test_a_line_cut_by_a_kill_is_asked_again(server: Scripted, tmp_path: Path) -> None:
    asked(tmp_path / "l.jsonl", Prompt(text="p"))
    (tmp_path / "l.jsonl").write_text((tmp_path / "l.jsonl").read_text() + '{"event": "ans')
    asked(tmp_path / "l.jsonl", Prompt(text="p"), Prompt(text="q"))
    assert len(server.seen) == 2


def test_an_unreachable_judge_fails_the_run(server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_chat, "MAX_ATTEMPTS", 1)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(StageFailed, match="Run again later"):
        asked(tmp_path / "l.jsonl", Prompt(text="p"))


def test_a_judge_without_service_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match=f"Set the key.*{NAME}"), open_reviewer(Judging(model="x"), tmp_path / "l"):
        pass


def test_a_budget_ends_the_reviews_before_it_is_passed(server: Scripted, tmp_path: Path) -> None:
    prompts = [Prompt(text=f"p{number}", max_tokens=10) for number in range(9)]
    with open_reviewer(Judging(model="m"), tmp_path / "l", Budget(max_tokens=40)) as reviewer:
        with pytest.raises(BudgetExceeded):
            reviewer(prompts)
    with pytest.raises(InputError, match="needs prices"):
        with open_reviewer(Judging(model="m"), tmp_path / "l", Budget(max_usd=1.0)):
            pass


def test_the_batch_api_gives_the_same_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [Prompt(text=f"Thing {number}.") for number in range(3)]
    with RuleTeacher(lambda _, text: text[::-1]) as service:
        monkeypatch.setenv("OPENAI_BASE_URL", service.base_url)
        whole = asked(tmp_path / "b.jsonl", *prompts, judging=Judging(model="m", batch=True))
        assert len(list(_chat.Endpoint(base_url=service.base_url, api_key="x").client().batches.list())) == 1
    assert whole == [prompt.text[::-1] for prompt in prompts]


def test_local_judge_reads_only_the_prompt() -> None:
    prompt = (
        "[Context]\nA red dog.\n\n[Question]\nWhat?\n\n[Assistant 1]\nred dog\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nblue cat\n\n[End of Assistant 2]\n\n[System]\nrule\n\n"
    )
    assert judge_by_rule(prompt).splitlines()[0] == "10.0 1.0"
    assert judge_by_rule("table\nWhat? | two dogs | two cats | ") == "0.5"


def test_the_date_is_that_of_the_judging(server: Scripted, tmp_path: Path) -> None:
    """A score made later from the same ledger was still judged on the day that the ledger says."""
    ledger = tmp_path / "ledger.jsonl"
    with open_reviewer(Judging(model="m"), ledger) as reviewer:
        reviewer([Prompt(text="A?")])
    today = reviewer.told()["date"]
    assert ledger.read_text().count(f'"date": "{today}"') == 1
    ledger.write_text(ledger.read_text().replace(today, "2024-02-29"))
    with open_reviewer(Judging(model="m"), ledger) as reviewer:
        reviewer([Prompt(text="A?")])
        assert reviewer.told()["date"] == "2024-02-29"
        reviewer([Prompt(text="B?")])
    assert reviewer.told()["date"] == f"2024-02-29 to {today}"
    assert len(server.seen) == 2


def test_a_service_without_batches_is_told_from_a_failing_one(server: Scripted, tmp_path: Path) -> None:
    with (
        open_reviewer(Judging(model="m", batch=True), tmp_path / "ledger.jsonl") as reviewer,
        pytest.raises(StageFailed, match="Batch API at http://127.0.0.1.*501.*ask without batches"),
    ):
        reviewer([Prompt(text="A?")])
