"""A server on a free loopback port that lives as long as a `with` block: for the teacher and the web of the world."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Self


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
