"""The web of a generated world: one loopback server that plays every host named in `web/routes.json`.

    {"images.scenes.test": {"/0001.jpg": {"file": "images/0001.jpg", "status": 200, "content_type": "image/jpeg",
                                          "headers": {"X-Robots-Tag": "noai"}, "delay_s": 0, "truncate": 100}}}

`file` is relative to the `web/` folder (null: an empty body), `truncate` sends only so many bytes of an answer that
announced all of them, `delay_s` waits first. What has no route answers 404, as the web does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from llavaflow.infra.errors import InputError
from llavaflow.stages._loopback import LoopbackServer, Served

ROUTES = "routes.json"


class WorldWeb(Served):
    """Serves a `web/` folder while its `with` block lasts; `address` is where, `on_request` hears every path."""

    _server: _Server
    thread_name = "world-web"

    def __init__(self, folder: Path) -> None:
        routes = folder / ROUTES
        if not routes.exists():
            raise InputError(f"no {ROUTES} in {folder}: this world serves no web. Use a world that was built with one.")
        self._server = _Server(self, folder, json.loads(routes.read_text()))
        self.on_request: Callable[[str], None] = lambda path: None

    @property
    def hosts(self) -> list[str]:
        return sorted(self._server.routes)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self._server.server_address[1])


class _Server(LoopbackServer):
    def __init__(self, web: WorldWeb, folder: Path, routes: dict[str, dict[str, dict[str, Any]]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.web = web
        self.folder = folder.resolve()
        self.routes = routes


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "world"
    sys_version = ""

    def do_GET(self) -> None:
        self.server.web.on_request(self.path)
        host = self.headers.get("Host", "").partition(":")[0].lower()
        route = self.server.routes.get(host, {}).get(self.path)
        if route is None:
            self.send_error(404)
            return
        time.sleep(route.get("delay_s") or 0)
        file = route.get("file")
        body = (self.server.folder / file).read_bytes() if file else b""
        self.send_response(route.get("status") or 200)
        self.send_header("Content-Type", route.get("content_type") or "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (route.get("headers") or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self._send(body[: route.get("truncate")])

    def _send(self, body: bytes) -> None:
        try:
            self.wfile.write(body)
        except OSError:
            # a client that lost patience is part of the world
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        return None
