"""The Batch API path: the same requests, the same ledger, at half the price and within a day.

Requests go out as files of at most 50,000 lines. A batch is in the ledger before it is waited for, and a run that was
killed in between finds it again by the name in its metadata instead of handing it in twice. Lines that expired or
failed on the service's side are handed in again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from llavaflow.infra.errors import BudgetExceeded, StageFailed
from llavaflow.infra.fingerprint import digest
from llavaflow.infra.prices import BATCH_SHARE
from llavaflow.stages._chat import Endpoint, reply_of
from llavaflow.stages._ledger import Request, RequestLedger

URL = "/v1/chat/completions"
MAX_LINES = 50_000
ROUNDS = 4
FIRST_POLL_S = 0.2
LONGEST_POLL_S = 60.0
ENDED = ("completed", "failed", "expired", "cancelled")


class BatchChat:
    """A chat service asked through its Batch API."""

    def __init__(self, endpoint: Endpoint, ledger: RequestLedger) -> None:
        self.client = endpoint.client()
        self.ledger = ledger

    def ask_all(self, requests: Sequence[Request], done: Callable[[], None]) -> None:
        """Settle every request, in rounds: what a round leaves open goes into the next.

        Raises StageFailed for a service that cannot be reached, or has no Batch API.
        """
        import openai

        try:
            self._rounds(requests, done)
        except openai.APIError as error:
            raise StageFailed(
                f"the Batch API at {self.client.base_url} did not do its part: {error} What was answered is kept. Run "
                "again later, or ask without batches: not every service has them."
            ) from error

    def _rounds(self, requests: Sequence[Request], done: Callable[[], None]) -> None:
        for batch_id in list(self.ledger.open_batches):
            self._collect(batch_id, done)
        for attempt in range(ROUNDS):
            left = {request.id: request for request in requests if not self.ledger.settled(request)}
            if not left:
                return
            self._round(list(left.values()), attempt, done)
        if any(not self.ledger.settled(request) for request in requests):
            raise StageFailed(f"the Batch API left requests open {ROUNDS} times. Run again, or set batch=False.")

    def _round(self, requests: Sequence[Request], attempt: int, done: Callable[[], None]) -> None:
        affordable, stopped = self._affordable(requests)
        for start in range(0, len(affordable), MAX_LINES):
            self._hand_in(affordable[start : start + MAX_LINES], attempt)
        for batch_id in list(self.ledger.open_batches):
            self._collect(batch_id, done)
        if stopped:
            raise stopped

    def _affordable(self, requests: Sequence[Request]) -> tuple[list[Request], BudgetExceeded | None]:
        """The requests that fit the budget, and the error that ends the run after them."""
        fitting: list[Request] = []
        for request in requests:
            try:
                self.ledger.reserve(request, BATCH_SHARE)
            except BudgetExceeded as error:
                return fitting, error
            fitting.append(request)
        return fitting, None

    def _hand_in(self, requests: Sequence[Request], attempt: int) -> None:
        names = [request.id for request in requests]
        name = digest([names, attempt])
        batch_id = self._handed_in_before(name)
        if batch_id is None:
            lines = [
                {"custom_id": request.id, "method": "POST", "url": URL, "body": dict(request.body)}
                for request in requests
            ]
            data = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
            file = self.client.files.create(file=(f"{name}.jsonl", data), purpose="batch")
            batch_id = self.client.batches.create(
                input_file_id=file.id, endpoint=URL, completion_window="24h", metadata={"llavaflow": name}
            ).id
        self.ledger.batch(batch_id, names)

    def _handed_in_before(self, name: str) -> str | None:
        """A batch that a killed run had created and not yet written down."""
        known = (batch for batch in self.client.batches.list(limit=100) if batch.id not in self.ledger.ended_batches)
        return next((batch.id for batch in known if (batch.metadata or {}).get("llavaflow") == name), None)

    def _collect(self, batch_id: str, done: Callable[[], None]) -> None:
        batch = self._ended(batch_id)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in self.client.files.content(file_id).text.splitlines():
                if line.strip():
                    self._take(json.loads(line), done)
        for request_id in self.ledger.open_batches[batch_id]:
            self.ledger.release(request_id)
        self.ledger.batch_ended(batch_id, batch.status)
        if batch.status == "failed":
            messages = [str(error.message) for error in (batch.errors.data or [])] if batch.errors else []
            raise StageFailed(f"the service refused batch {batch_id}: {'; '.join(messages) or 'no reason given'}.")

    def _take(self, line: dict[str, Any], done: Callable[[], None]) -> None:
        """One line of a result file: an answer, a refusal, or something that the next round asks again."""
        request_id, response = line["custom_id"], line.get("response") or {}
        if request_id in self.ledger.replies:
            return
        status = response.get("status_code")
        if status == 200:
            self.ledger.answered(request_id, reply_of(response["body"]), share=BATCH_SHARE)
            done()
        elif status is not None and 400 <= status < 500 and status not in (408, 409, 429):
            body = response.get("body") or {}
            self.ledger.refuse(request_id, str((body.get("error") or {}).get("message") or f"status {status}"))
            done()

    def _ended(self, batch_id: str) -> Any:
        pause = FIRST_POLL_S
        while (batch := self.client.batches.retrieve(batch_id)).status not in ENDED:
            time.sleep(pause)
            pause = min(LONGEST_POLL_S, 1.5 * pause)
        return batch
