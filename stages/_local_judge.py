"""The local judge: a named double that speaks the OpenAI wire protocol on loopback and judges by rule.

It reads nothing but the HTTP body. For a review it compares each assistant's words with the words of the context and
gives 1 to 10 by their overlap; for MM-Vet's table it compares the prediction with the ground truth, 0.0 to 1.0. It
is no substitute for a language model: it makes the tiny recipe's review run for real, and is named as what it is.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

NAME = "llavaflow-local-judge"
ANSWER = re.compile(r"\[Assistant (\d)\]\n(.*?)\n\n\[End of Assistant \1\]", re.DOTALL)
CONTEXT = re.compile(r"\[Context\]\n(.*?)\n\n\[Question\]\n(.*?)\n\n\[Assistant 1\]", re.DOTALL)
WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?")
LEAST, MOST = 1, 10


def judge_by_rule(prompt: str) -> str:
    """The reply to a review prompt or to MM-Vet's table; for anything else a refusal to judge."""
    shown = CONTEXT.search(prompt)
    answers = dict(ANSWER.findall(prompt))
    if shown and {"1", "2"} <= set(answers):
        return _review(_words(f"{shown.group(1)} {shown.group(2)}"), answers["1"], answers["2"])
    cells = prompt.strip().split("\n")[-1].split(" | ")
    if len(cells) < 3:
        cells = prompt.strip().split("\n")[-2].split(" | ")
    return f"{_overlap(_words(cells[1]), cells[2]):.1f}" if len(cells) >= 3 else "I can only judge reviews."


def _review(context: frozenset[str], reference: str, candidate: str) -> str:
    scores = [LEAST + (MOST - LEAST) * _overlap(context, answer) for answer in (reference, candidate)]
    shares = " and ".join(f"{_overlap(context, answer):.0%}" for answer in (reference, candidate))
    return f"{scores[0]:.1f} {scores[1]:.1f}\nOf the words of the assistants, {shares} stand in the context."


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.lower()))


def _overlap(known: frozenset[str], answer: str) -> float:
    """The share of an answer's words that are known; an empty answer has none."""
    said = _words(answer)
    return len(said & known) / len(said) if said else 0.0


class LocalJudge:
    """The server, for a `with` block; `url` is what an OpenAI client takes as base URL."""

    def __enter__(self) -> LocalJudge:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True, name=NAME)
        self._thread.start()
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self._send({**_completion(judge_by_rule(prompt), len(prompt.split()))})

    def _send(self, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are in the caller's ledger."""


def _completion(text: str, prompt_words: int) -> dict[str, Any]:
    words = len(text.split())
    usage = {"prompt_tokens": prompt_words, "completion_tokens": words, "total_tokens": prompt_words + words}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": "local", "object": "chat.completion", "created": 0, "model": NAME, "choices": [choice], "usage": usage,
    }  # fmt: skip
