"""The Batch API path: a batch is handed in once, whatever moment a run is killed at, and lines that fail come again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.context import Budget
from llavaflow.infra.errors import StageFailed
from llavaflow.stages._chat import NO_KEY, Endpoint
from llavaflow.stages._chat_batch import BatchChat
from llavaflow.stages._ledger import Price, Request, RequestLedger
from llavaflow.stages._teacher import RuleTeacher


def requests(count: int) -> list[Request]:
    return [
        Request({"model": "any", "messages": [{"role": "user", "content": f"Thing {n}."}], "max_tokens": 9})
        for n in range(count)
    ]


def ledger_at(path: Path) -> RequestLedger:
    return RequestLedger(path, price=Price(input_usd=10.0, output_usd=10.0), budget=Budget())


def settle(teacher: RuleTeacher, path: Path, asked: list[Request]) -> RequestLedger:
    with ledger_at(path) as ledger:
        BatchChat(Endpoint(base_url=teacher.base_url, api_key=NO_KEY), ledger).ask_all(asked, lambda: None)
    return ledger


def test_a_batch_costs_half_and_is_not_asked_again(tmp_path: Path) -> None:
    asked = requests(3)
    with RuleTeacher() as teacher:
        ledger = settle(teacher, tmp_path / "a", asked)
        again = settle(teacher, tmp_path / "a", asked)
        client = Endpoint(base_url=teacher.base_url, api_key=NO_KEY).client()
        assert len(list(client.batches.list())) == 1
    assert [ledger.replies[request.id].text for request in asked] == ["Thing 0.", "Thing 1.", "Thing 2."]
    assert ledger.usd == pytest.approx(ledger.tokens * 10e-6 / 2) and again.usd == ledger.usd > 0


@pytest.mark.parametrize("written_down", [True, False])
def test_a_run_killed_after_handing_in_finds_its_batch(tmp_path: Path, written_down: bool) -> None:
    asked = requests(3)
    with RuleTeacher() as teacher:
        endpoint = Endpoint(base_url=teacher.base_url, api_key=NO_KEY)
        with ledger_at(tmp_path / "a") as ledger:
            BatchChat(endpoint, ledger)._hand_in(asked, 0)
        resumed = settle(teacher, tmp_path / ("a" if written_down else "b"), asked)
        assert len(list(endpoint.client().batches.list())) == 1
    assert all(resumed.settled(request) for request in asked) and not resumed.open_batches


def test_failed_lines_are_handed_in_again_and_refused_ones_are_not(tmp_path: Path) -> None:
    asked = requests(3)
    first: list[int] = []

    with RuleTeacher() as teacher:
        server = teacher._server
        complete = server.complete

        def trouble(body: Any) -> dict[str, Any]:
            first.append(1)
            return complete(body)

        server.complete = trouble  # type: ignore[method-assign]
        keep = server.keep

        def damaged(data: bytes, name: str) -> dict[str, Any]:
            """The first result file reports one line as expired and one as rejected."""
            if name == "output.jsonl" and len(first) == 3:
                lines = data.decode().splitlines()
                lines[0] = f'{{"custom_id": "{asked[0].id}", "response": null, "error": {{"code": "batch_expired"}}}}'
                body = '{"error": {"message": "not allowed"}}'
                lines[1] = f'{{"custom_id": "{asked[1].id}", "response": {{"status_code": 400, "body": {body}}}}}'
                good = next(line for line in data.decode().splitlines() if asked[2].id in line)
                data = "\n".join([*lines[:2], good]).encode()
            return keep(data, name)

        server.keep = damaged  # type: ignore[method-assign]
        ledger = settle(teacher, tmp_path / "a", asked)
    assert len(first) == 4, "only the expired line was asked again"
    assert set(ledger.replies) == {asked[0].id, asked[2].id} and ledger.refused == {asked[1].id: "not allowed"}


def test_a_refused_batch_says_why(tmp_path: Path) -> None:
    with RuleTeacher() as teacher:
        run = teacher._server.run_batch

        def refused(body: Any) -> dict[str, Any]:
            batch = run(body)
            batch |= {"status": "failed", "output_file_id": None}
            batch["errors"] = {"object": "list", "data": [{"code": "x", "message": "token limit reached"}]}
            return batch

        teacher._server.run_batch = refused  # type: ignore[method-assign]
        with pytest.raises(StageFailed, match="token limit reached"):
            settle(teacher, tmp_path / "a", requests(2))
        teacher._server.run_batch = run  # type: ignore[method-assign]
        assert len(settle(teacher, tmp_path / "a", requests(2)).replies) == 2, "the refused batch is not taken up again"
