"""Stores of both sorts, and a TCP proxy before the S3 server that cuts connections."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store, once of each sort."""
    return str(request.getfixturevalue("s3_url")) if request.param == "s3" else str(tmp_path / "store")


class CuttingProxy:
    """Forwards TCP to a server; the first `cuts` connections that send more than `after` bytes are cut there."""

    def __init__(self, target: str, *, after: int, cuts: int) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._after, self.cuts_left = after, cuts
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # closing alone would leave the thread in `accept` for good
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upward: bool) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                if upward and passed > self._after and self._may_cut():
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _may_cut(self) -> bool:
        with self._lock:
            self.cuts_left -= 1
            return self.cuts_left >= 0
