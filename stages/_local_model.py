"""The local model: a checkpoint behind the OpenAI protocol on loopback, in the place of vLLM or SGLang.

    POST /v1/chat/completions    pictures as data URLs, greedy answers       GET /v1/models

A double for tests and for trying things out: real answers of a real checkpoint, one at a time.
"""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

from llavaflow.stages._loopback import JsonHandler, LoopbackServer, ServedApi

NAME = "llavaflow-local-model"


class LocalModel(ServedApi):
    """Serves a checkpoint while its `with` block lasts; `base_url` is what an OpenAI client takes."""

    _server: _Server
    thread_name = NAME

    def __init__(self, checkpoint: Path, template: str = "") -> None:
        self._server = _Server(checkpoint, template)

    @property
    def answered(self) -> int:
        """How many questions it has answered."""
        return self._server.answered


class _Server(LoopbackServer):
    def __init__(self, checkpoint: Path, template: str) -> None:
        from llavaflow.models.llava import load, template_of

        super().__init__(("127.0.0.1", 0), _Handler)
        self.llava = load(str(checkpoint))
        self.template = template or template_of(self.llava.model.config)
        self.answered = 0
        self._one = threading.Lock()

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The chat completion for a request body. Raises ValueError for one that it does not understand."""
        from llavaflow.models.generate import ask
        from llavaflow.models.pixels import open_image

        if body["model"] != NAME:
            raise ValueError(f"no model {body['model']} here, only {NAME}")
        parts = {part["type"]: part for part in body["messages"][-1]["content"]}
        shown = parts["image_url"]["image_url"]["url"].partition(";base64,")[2] if "image_url" in parts else None
        picture = open_image(base64.b64decode(shown)) if shown is not None else None
        with self._one:
            text = ask(self.llava, self.template, parts["text"]["text"], picture, body["max_tokens"])
            self.answered += 1
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        return {"id": "local", "object": "chat.completion", "created": 0, "model": NAME, "choices": [choice]}


class _Handler(JsonHandler):
    server: _Server

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.send_json(self.server.complete(json.loads(data)))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            self.send_json({"error": {"message": f"malformed request: {error!r}"}}, 400)

    def do_GET(self) -> None:
        self.send_json({"object": "list", "data": [{"id": NAME, "object": "model", "created": 0, "owned_by": "local"}]})
