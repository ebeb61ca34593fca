"""The request ledger: what was asked of a paid service, what came back and what it cost; it survives a kill.

    {"event": "sent", "request": id}                       about to go out
    {"event": "answered", "request": id, "text", ...}      paid for; never asked again
    {"event": "refused", "request": id, "message"}         the service will not answer this one
    {"event": "batch", "batch": id, "requests": [id]}      handed in for the Batch API
    {"event": "batch-ended", "batch": id, "status"}

A request's id is the digest of its body, so the same question is the same request in every run, and it travels as the
idempotency key, so that a service that honours it charges once even for an answer that was lost on the way.

The budget counts before a request goes out: what was spent, what is in flight at its worst, and this one at its worst
must fit. So a run stops before it passes the limit and not after.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from llavaflow.infra.artifact import Json
from llavaflow.infra.context import Budget
from llavaflow.infra.errors import BudgetExceeded, InputError
from llavaflow.infra.fingerprint import canonical, digest
from llavaflow.infra.prices import tokens_usd
from llavaflow.stages._jsonl import JsonLines

# English text has about four bytes per token; three is the careful side
BYTES_PER_TOKEN = 3
# LLaVA-NeXT's 2,880 is the most that a model of this family makes of one
TOKENS_PER_PICTURE = 2_880


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a million tokens cost; the Batch API takes half."""

    input_usd: float = 0.0
    output_usd: float = 0.0

    @classmethod
    def of_model(cls, model: str, input_usd: float, output_usd: float) -> Self:
        """The price that a stage states, or else that of the table; nothing where neither knows one."""
        known = (input_usd, output_usd) if input_usd or output_usd else tokens_usd(model) or (0.0, 0.0)
        return cls(input_usd=known[0], output_usd=known[1])

    def check(self, budget: Budget, model: str) -> None:
        """Raises InputError when money is limited and nobody has said what the model costs."""
        if budget.max_usd is not None and not (self.input_usd or self.output_usd):
            raise InputError(
                f"a limit of {budget.max_usd:,.2f} USD needs prices: set input_usd and output_usd to what a million "
                f"tokens of {model} cost, or limit tokens instead."
            )

    def of(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1e6


@dataclass(frozen=True)
class Request:
    """The body of one chat completion; `draw` tells apart several askings of the same body, all of them wanted."""

    body: Mapping[str, Json]
    draw: str = ""

    @cached_property
    def id(self) -> str:
        return digest([dict(self.body), self.draw] if self.draw else dict(self.body))

    @cached_property
    def most_tokens(self) -> tuple[int, int]:
        """The most input and output tokens that it can cost."""
        messages = list(self.body["messages"])
        contents = [message["content"] for message in messages if isinstance(message["content"], list)]
        pictures = [part["image_url"]["url"] for parts in contents for part in parts if part["type"] == "image_url"]
        text = len(canonical(messages)) - sum(map(len, pictures))
        return text // BYTES_PER_TOKEN + 1 + len(pictures) * TOKENS_PER_PICTURE, int(self.body["max_tokens"])


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer with its cost; `finish` is the service's reason to stop."""

    text: str
    model: str = ""
    finish: str = "stop"
    input_tokens: int = 0
    output_tokens: int = 0


class RequestLedger:
    """Replies by request id, and what they cost. Safe to use from many threads."""

    def __init__(self, path: Path, *, price: Price, budget: Budget) -> None:
        self.price = price
        self.budget = budget
        self.replies: dict[str, Reply] = {}
        self.dates: dict[str, str] = {}  # the day of every reply, in UTC
        self.refused: dict[str, str] = {}
        self.open_batches: dict[str, list[str]] = {}
        self.ended_batches: set[str] = set()
        self.tokens, self.usd = 0, 0.0
        self._held: dict[str, tuple[int, float]] = {}
        self._held_tokens, self._held_usd = 0, 0.0
        self._lock = threading.Lock()
        self._lines = JsonLines(path)
        for event in self._lines.read():
            self._take(event)

    def __enter__(self) -> RequestLedger:
        self._lines.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.__exit__(kind, error, trace)

    def settled(self, request: Request) -> bool:
        return request.id in self.replies or request.id in self.refused

    def reserve(self, request: Request, share: float = 1.0) -> None:
        """Set the worst cost of a request aside. Raises BudgetExceeded when it does not fit; then nothing is sent."""
        with self._lock:
            most = sum(request.most_tokens), share * self.price.of(*request.most_tokens)
            tokens = self.tokens + self._held_tokens + most[0]
            usd = self.usd + self._held_usd + most[1]
            if self.budget.max_tokens is not None and tokens > self.budget.max_tokens:
                raise BudgetExceeded(self._stop(f"{self.budget.max_tokens:,} tokens", "--max-tokens"))
            if self.budget.max_usd is not None and usd > self.budget.max_usd:
                raise BudgetExceeded(self._stop(f"{self.budget.max_usd:,.2f} USD", "--max-usd"))
            self._hold(request.id, most)

    def sent(self, request: Request) -> None:
        self._write({"event": "sent", "request": request.id}, durable=False)

    def answered(self, request_id: str, reply: Reply, *, share: float = 1.0) -> None:
        today = datetime.now(UTC).date().isoformat()
        self._write({"event": "answered", "request": request_id, "date": today, "share": share, **vars(reply)})

    def refuse(self, request_id: str, message: str) -> None:
        self._write({"event": "refused", "request": request_id, "message": message})

    def release(self, request_id: str) -> None:
        """The request will not cost anything after all."""
        with self._lock:
            self._hold(request_id, (0, 0.0))

    def batch(self, batch_id: str, requests: list[str]) -> None:
        self._write({"event": "batch", "batch": batch_id, "requests": requests})

    def batch_ended(self, batch_id: str, status: str) -> None:
        self._write({"event": "batch-ended", "batch": batch_id, "status": status})

    def _write(self, event: dict[str, Json], *, durable: bool = True) -> None:
        with self._lock:
            self._lines.append(event, durable=durable)
            self._take(event)

    def _take(self, event: Mapping[str, Json]) -> None:
        kind = event["event"]
        if kind == "answered":
            names = Reply.__dataclass_fields__
            reply = Reply(**{name: event[name] for name in names})
            self.replies[event["request"]] = reply
            self.dates[event["request"]] = event.get("date", "")
            self._hold(event["request"], (0, 0.0))
            self.tokens += reply.input_tokens + reply.output_tokens
            self.usd += event["share"] * self.price.of(reply.input_tokens, reply.output_tokens)
        elif kind == "refused":
            self.refused[event["request"]] = event["message"]
            self._hold(event["request"], (0, 0.0))
        elif kind == "batch":
            self.open_batches[event["batch"]] = event["requests"]
        elif kind == "batch-ended":
            self.open_batches.pop(event["batch"], None)
            self.ended_batches.add(event["batch"])

    def _hold(self, request_id: str, most: tuple[int, float]) -> None:
        """What is set aside for a request from now on."""
        before = self._held.pop(request_id, (0, 0.0))
        if most[0]:
            self._held[request_id] = most
        self._held_tokens += most[0] - before[0]
        self._held_usd += most[1] - before[1]

    def _stop(self, limit: str, option: str) -> str:
        return (
            f"stopped before the limit of {limit}: {len(self.replies)} requests are answered for {self.tokens:,} "
            f"tokens and {self.usd:,.2f} USD, and the next could pass it. Raise {option} and run again: "
            "what was paid for is kept and not asked again."
        )
