"""A model behind the OpenAI protocol (vLLM, SGLang) answers an evaluation: pictures travel as data URLs."""

from __future__ import annotations

import base64
import io
import mimetypes
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from llavaflow.infra.context import Budget, RunContext
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.stages._answerer import open_image
from llavaflow.stages._chat import NO_KEY, Chat, Endpoint
from llavaflow.stages._exam import Asked
from llavaflow.stages._ledger import Price, Request, RequestLedger

KEY = "LLAVAFLOW_MODEL_KEY"
# a server makes batches of what is under way together
AT_ONCE = 32
# pictures travel inside requests: only so many exist at a time
CHUNK = 256
MOST_REFUSED = 0.01


@dataclass(frozen=True, kw_only=True)
class Served:
    """A model behind the OpenAI protocol (vLLM, SGLang): `url` ends in /v1, `model` is its name there.

    The key, where one is needed, is $LLAVAFLOW_MODEL_KEY; the judge's never goes to this server.
    """

    url: str
    model: str

    def __str__(self) -> str:
        return f"{self.model} at {urlsplit(self.url).hostname}"

    def endpoint(self) -> Endpoint:
        """The address with its key. Raises InputError for one that cannot be asked."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{self.url!r} is no address of a server: give http://HOST:PORT/v1.")
        if parts.username or parts.password:
            raise InputError(f"the address of the model carries a secret: put the key into ${KEY} and leave it out.")
        return Endpoint(base_url=self.url, api_key=os.environ.get(KEY) or NO_KEY, key_name=KEY)


@dataclass
class ServedAnswerer:
    """Answers from a server, many requests at a time; each is in the request ledger and never asked twice."""

    ctx: RunContext
    served: Served
    images: Path
    refused: int = 0

    def __call__(self, asked: Sequence[Asked]) -> Iterator[str]:
        ledger = RequestLedger(self.ctx.work / "requests.jsonl", price=Price(), budget=self.ctx.budget)
        with ledger:
            chat = Chat(self.served.endpoint(), ledger)
            for start in range(0, len(asked), CHUNK):
                requests = [self._request(question) for question in asked[start : start + CHUNK]]
                chat.ask_all(requests, AT_ONCE, lambda: None)
                self._check_refusals(ledger, len(asked))
                for request in requests:
                    yield ledger.replies[request.id].text.strip() if request.id in ledger.replies else ""
            self.refused = len(ledger.refused)

    def _request(self, question: Asked) -> Request:
        shown = None if question.shown is None else self.images / question.shown
        url = data_url(shown, question.variant) if shown is not None else None
        return chat_request(self.served.model, question.text, url, question.max_new_tokens)

    def _check_refusals(self, ledger: RequestLedger, total: int) -> None:
        """A few questions that a server refuses are empty answers; many are a server that cannot do this."""
        refused = list(ledger.refused.values())
        if len(refused) > max(1, MOST_REFUSED * total):
            raise StageFailed(
                f"{self.served} refused {len(refused)} of {total} questions, the last with: {refused[-1]} "
                "Does it serve a model that takes pictures?"
            )


def chat_request(model: str, text: str, image_url: str | None, max_new_tokens: int) -> Request:
    """A question about a picture as a chat completion, the picture first as LLaVA has it; greedy."""
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image_url}}] if image_url else []
    content.append({"type": "text", "text": text})
    messages = [{"role": "user", "content": content}]
    return Request({"model": model, "messages": messages, "temperature": 0.0, "max_tokens": max_new_tokens})


def ask_served(served: Served, text: str, image: Path, max_new_tokens: int) -> str:
    """The answer of a server to one question. Raises StageFailed when it gives none."""
    request = chat_request(served.model, text, data_url(image, "images"), max_new_tokens)
    with TemporaryDirectory() as scratch:
        with RequestLedger(Path(scratch) / "requests.jsonl", price=Price(), budget=Budget()) as ledger:
            Chat(served.endpoint(), ledger, attempts=2).ask_all([request], 1, lambda: None)
    if request.id in ledger.refused:
        raise StageFailed(f"{served} refused the question: {ledger.refused[request.id]}")
    return ledger.replies[request.id].text.strip()


def data_url(path: Path, variant: str) -> str:
    """A picture inside a URL: the file's own bytes, or for `blank` a grey PNG of its size."""
    if variant == "blank":
        open_image(path, variant).save(stream := io.BytesIO(), "PNG")
        return _data_url(stream.getvalue(), "image/png")
    return _data_url(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "image/jpeg")


def _data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
