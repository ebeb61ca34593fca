"""The Prefect server of a run: started on loopback, its database in the store's `prefect` folder, gone when we are.

Prefect would start a server by itself, but one that outlives a killed parent, listens on a port that somebody else may
take meanwhile, and puts site-packages before the standard library. So this file starts the same application:

    parent   binds a free port, starts `python -P -m llavaflow.infra.prefect`, hands the socket over, waits for health
    child    serves on that socket and ends as soon as its parent is no longer there

Where PREFECT_API_URL is set, that server is used and none is started. Nothing is reported to anyone.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError
from urllib.request import urlopen

from llavaflow.infra.errors import LlavaflowError
from llavaflow.infra.store import ArtifactStore

STARTUP_TIMEOUT_S = 180.0
SHUTDOWN_TIMEOUT_S = 5.0
RESTARTS = 3
Mode = Literal["run", "page"]

# quiet on stderr, where our own messages go; silent to the outside
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "llavaflow",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}


@dataclass(kw_only=True)
class Server:
    """A running Prefect server; without a process it is somebody else's."""

    api_url: str
    home: Path
    mode: Mode = "run"
    listener: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    stopping: bool = False

    @property
    def page(self) -> str:
        """The address of its pages."""
        return self.api_url.removesuffix("/api")

    @property
    def log(self) -> Path:
        return self.home / "server.log"


def home_of(store: ArtifactStore) -> Path:
    """Where the flow runs of a store are kept: `$PREFECT_HOME`, else a folder beside the store's scratch."""
    return Path(os.environ.get("PREFECT_HOME") or store.backend.scratch.parent / "prefect").resolve()


@contextmanager
def server(home: Path, *, mode: Mode = "run", port: int = 0) -> Iterator[Server]:
    """A Prefect server for a `with` block; the process environment points to it meanwhile.

    mode `run` serves the API to this process only; `page` serves the pages and the schedules too. Port 0 is any.
    """
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    if url := os.environ.get("PREFECT_API_URL"):
        yield Server(api_url=url, home=home)
        return
    home.mkdir(parents=True, exist_ok=True)
    given = os.environ.get("PREFECT_HOME")
    started = _start(home, mode, port)
    os.environ |= {"PREFECT_HOME": str(home), "PREFECT_API_URL": started.api_url}
    try:
        # takes a second, in which the server starts as well; it reads the environment set above
        import prefect.context

        # had it been imported before, it would still know the old address
        prefect.context.refresh_global_settings_context()
        _wait(started)
        threading.Thread(target=_keep, args=[started], daemon=True).start()
        try:
            yield started
        finally:
            _flush()
    finally:
        _stop(started)
        del os.environ["PREFECT_API_URL"]
        os.environ["PREFECT_HOME"] = given or ""
        if not given:
            del os.environ["PREFECT_HOME"]


def _start(home: Path, mode: Mode, port: int) -> Server:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise LlavaflowError(f"port {port} on 127.0.0.1 is taken ({error.strerror}). Choose another port.") from error
    # connections made before the server is ready wait in this queue
    listener.listen(128)
    api_url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    started = Server(api_url=api_url, home=home, mode=mode, listener=listener)
    started.process = _spawn(started)
    return started


def _spawn(started: Server) -> subprocess.Popen[bytes]:
    assert started.listener is not None
    handle = started.listener.fileno()
    with started.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "llavaflow.infra.prefect", str(handle), str(os.getpid())],
            pass_fds=[handle],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for us: the server must still take the last states of the run
            start_new_session=True,
            env=_server_environment(started),
        )


def _keep(started: Server) -> None:
    """Start the server again when it dies (the machine ran out of memory, say) while the run goes on: clients wait in
    the queue of the socket, which stays ours, and what they ask again is answered by the next one."""
    for _ in range(RESTARTS):
        assert started.process is not None
        started.process.wait()
        if started.stopping:
            return
        started.process = _spawn(started)


def _server_environment(started: Server) -> dict[str, str]:
    role = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "false"}
    page = {"PREFECT_UI_ENABLED": "true", "PREFECT_UI_API_URL": started.api_url}
    place = {"PREFECT_API_URL": started.api_url, "PREFECT_HOME": str(started.home)}
    common = {**place, "PREFECT__SERVER_FINAL": "1", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}
    console = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "0", "PREFECT_LOGGING_EXTRA_LOGGERS": ""}
    return {**os.environ, **common, **console, **(role if started.mode == "run" else page)}


def _wait(started: Server, timeout_s: float = STARTUP_TIMEOUT_S) -> None:
    """Return when the server answers. Raises LlavaflowError with the end of its log when it does not."""
    assert started.process is not None
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and started.process.poll() is None:
        try:
            with urlopen(f"{started.api_url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError, http.client.HTTPException):
            time.sleep(0.1)
    code = started.process.poll()
    state = f"ended with code {code}" if code is not None else f"did not answer within {timeout_s:.0f} s"
    tail = "\n".join(started.log.read_text(errors="replace").splitlines()[-8:])
    raise LlavaflowError(
        f"the Prefect server {state} (log: {started.log}). Set PREFECT_API_URL to use a server that runs already. "
        f"The end of the log:\n{tail}"
    )


def _flush() -> None:
    """Send what waits in the client's queues: the last logs, and the last states of tasks, which travel as events."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for queue in (APILogWorker, EventsWorker):
        queue.drain_all(timeout=SHUTDOWN_TIMEOUT_S)


def _stop(started: Server) -> None:
    assert started.process is not None and started.listener is not None
    started.stopping = True
    started.listener.close()
    started.process.terminate()
    try:
        started.process.wait(SHUTDOWN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # its database is SQLite in WAL mode: ending it hard loses nothing that was answered
        started.process.kill()
        started.process.wait()


def _serve(listener: socket.socket, parent: int) -> None:
    """The child: Prefect's own application on the socket that the parent has bound."""
    import uvicorn

    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, log_level="warning", timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run(sockets=[listener])


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
