"""The rule-based teacher: a loopback server that speaks the OpenAI wire protocol and answers by rule.

    POST /v1/chat/completions
    POST /v1/files   GET /v1/files/{id}/content   POST /v1/batches   GET /v1/batches[/{id}]   GET /v1/models

It knows nothing but the HTTP body of each request. Token counts are words and marks, so that budgets have something
to count. `answer(system, context)` can be another function, which makes it another teacher.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import urlsplit

from llavaflow.infra.fingerprint import digest
from llavaflow.stages._loopback import JsonHandler, LoopbackServer, ServedApi
from llavaflow.stages._teacher_rules import answer

MODEL = "rule-teacher"
TITLE = "rule-based teacher on loopback (answers by rule from captions and boxes; not a language model)"
_TOKEN = re.compile(r"\w+|[^\w\s]")

Answer = Callable[[str, str], str]


class RuleTeacher(ServedApi):
    """Serves while its `with` block lasts; `base_url` is what OPENAI_BASE_URL would be."""

    _server: _Server
    thread_name = "rule-teacher"

    def __init__(self, reply: Answer = answer) -> None:
        self._server = _Server(reply)


class _Server(LoopbackServer):
    def __init__(self, reply: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The chat completion for a request body."""
        messages = body["messages"]
        system = next((str(message["content"]) for message in messages if message["role"] == "system"), "")
        text = self.reply(system, str(messages[-1]["content"]))
        asked = sum(len(_TOKEN.findall(str(message["content"]))) for message in messages)
        said = len(_TOKEN.findall(text))
        return {
            "id": f"chatcmpl-{digest(list(messages))}",
            "object": "chat.completion",
            "created": 0,
            "model": body.get("model", MODEL),
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
        }

    def keep(self, data: bytes, name: str) -> dict[str, Any]:
        """Store a file and describe it."""
        id = f"file-{len(self.files)}"
        self.files[id] = data
        return {"id": id, "object": "file", "bytes": len(data), "created_at": 0, "filename": name, "purpose": "batch"}

    def run_batch(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer every line of an input file; the lines of the output are in another order, as the service warns."""
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines() if line.strip()]
        results = [
            {
                "id": f"batch_req_{number}",
                "custom_id": line["custom_id"],
                "response": {"status_code": 200, "request_id": "", "body": self.complete(line["body"])},
                "error": None,
            }
            for number, line in enumerate(lines)
        ]
        output = self.keep("\n".join(map(json.dumps, reversed(results))).encode(), "output.jsonl")
        batch = {
            "id": f"batch_{len(self.batches)}",
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"],
            "created_at": 0,
            "status": "completed",
            "output_file_id": output["id"],
            "metadata": body.get("metadata"),
            "request_counts": {"total": len(lines), "completed": len(lines), "failed": 0},
        }
        self.batches[batch["id"]] = batch
        return batch


class _Handler(JsonHandler):
    server: _Server
    server_version = "rule-teacher"
    sys_version = ""

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        try:
            if path == "/v1/chat/completions":
                self.send_json(self.server.complete(json.loads(data)))
            elif path == "/v1/files":
                self.send_json(self.server.keep(*_uploaded(self.headers["Content-Type"], data)))
            elif path == "/v1/batches":
                self.send_json(self.server.run_batch(json.loads(data)))
            else:
                self._refuse(404, f"no {path} here")
        except (KeyError, ValueError, TypeError, IndexError) as error:
            self._refuse(400, f"malformed request: {error!r}")

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.removeprefix("/v1/")
        kind, _, rest = path.partition("/")
        name = rest.removesuffix("/content")
        if path == "models":
            self.send_json(
                {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": TITLE}]}
            )
        elif path == "batches":
            self.send_json({"object": "list", "data": list(self.server.batches.values()), "has_more": False})
        elif kind == "batches" and name in self.server.batches:
            self.send_json(self.server.batches[name])
        elif kind == "files" and name in self.server.files:
            self.send_json(self.server.files[name])
        else:
            self._refuse(404, f"no {path} here")

    def _refuse(self, status: int, message: str) -> None:
        self.send_json({"error": {"message": message, "type": "invalid_request_error", "code": None}}, status)


def _uploaded(content_type: str, data: bytes) -> tuple[bytes, str]:
    """The file of a multipart upload, and its name."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + data)
    for part in message.iter_parts():
        if name := part.get_filename():
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes), "an uploaded file is bytes"
            return payload, name
    raise ValueError("no file in the upload")
