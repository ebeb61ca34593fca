"""Serve the pages: Prefect's for flow runs, ours for lineage. Ctrl-C stops both."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import click

from llavaflow.infra.errors import LlavaflowError
from llavaflow.pipelines._cli._options import emit, json_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.store import ArtifactStore

PREFECT_PORT, LINEAGE_PORT = 4200, 4201


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help=f"Of Prefect's pages; {PREFECT_PORT} or a free one.")
@click.option("--lineage-port", type=click.IntRange(0, 65535), help=f"Of our pages; {LINEAGE_PORT} or a free one.")
@store_option
@json_option
def command(port: int | None, lineage_port: int | None, store: ArtifactStore, as_json: bool) -> None:
    """Start Prefect's server and the lineage pages on loopback, and print both addresses."""
    import uvicorn

    from llavaflow.infra.prefect import home_of, server
    from llavaflow.pipelines._lineage_page import lineage_app

    chosen = _free(PREFECT_PORT) if port is None else port
    with _listen(lineage_port) as listener, server(home_of(store), mode="page", port=chosen) as prefect:
        lineage = f"http://127.0.0.1:{listener.getsockname()[1]}"
        document = {"prefect": prefect.page, "lineage": lineage, "store": store.url}

        def render(console: Console) -> None:
            console.print(f"Prefect   {prefect.page}\nlineage   {lineage}\nstore     {store.url}\nCtrl-C stops both")

        emit(document, as_json, render)
        sys.stdout.flush()
        uvicorn.Server(
            uvicorn.Config(lineage_app(store, prefect.page), log_level="warning", timeout_graceful_shutdown=2)
        ).run(sockets=[listener])


def _listen(port: int | None) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    wanted = _free(LINEAGE_PORT) if port is None else port
    try:
        listener.bind(("127.0.0.1", wanted))
    except OSError as error:
        raise LlavaflowError(f"port {wanted} on 127.0.0.1 is taken ({error.strerror}). Choose another port.") from error
    # who follows the printed address at once waits in this queue
    listener.listen(128)
    return listener


def _free(port: int) -> int:
    """The usual port if nobody has it, otherwise 0: any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port
