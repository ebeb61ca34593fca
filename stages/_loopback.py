"""A server on a free loopback port that lives as long as a `with` block: for the web of the world, and for services
that speak the OpenAI wire protocol (teacher, judge, local model).
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class LoopbackServer(ThreadingHTTPServer):
    """Threads end with the process, and a burst of clients is queued instead of refused."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256


class Served:
    """Serves `_server` from a thread while its `with` block lasts."""

    _server: LoopbackServer
    thread_name = "loopback"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, name=self.thread_name, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: object, ___: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class ServedApi(Served):
    """A service with the OpenAI wire protocol; `base_url` is what a client takes."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON, and writes no log."""

    protocol_version = "HTTP/1.1"

    def send_json(self, body: dict[str, Any] | bytes, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        return None
