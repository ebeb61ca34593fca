"""Options and output that every command shares.

    @click.command()
    @store_option          # store: ArtifactStore
    @machine_option        # machine: Machine
    @json_option           # as_json: bool
    def command(store, machine, as_json) -> None:
        emit(document, as_json, render)

`emit` writes the one JSON document of a command, or calls `render` with a console; everything else that a command
has to say goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llavaflow.infra.artifact import Json

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.machine import Machine
    from llavaflow.infra.store import ArtifactStore

Command = TypeVar("Command", bound=Callable[..., Any])
DEFAULT_STORE = ".llavaflow"


def json_option(command: Command) -> Command:
    """`--json`, passed as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, logs on stderr.")(command)


def store_option(command: Command) -> Command:
    """`--store URL`, passed as an opened ArtifactStore named `store`."""
    return click.option(
        "--store",
        metavar="URL",
        envvar="LLAVAFLOW_STORE",
        default=DEFAULT_STORE,
        show_default=True,
        callback=_open_store,
        help="Folder or s3://bucket/prefix; $LLAVAFLOW_STORE is used when it is not given.",
    )(command)


def _open_store(ctx: click.Context, param: click.Parameter, value: str) -> ArtifactStore:
    from llavaflow.infra.store import open_store

    return open_store(value)


def machine_option(command: Command) -> Command:
    """`--machine KIND[:NODESxGPUS]`, passed as a Machine named `machine`; this computer when it is not given."""
    return click.option(
        "--machine",
        metavar="KIND[:NODESxGPUS]",
        default=None,
        callback=_parse_machine,
        help="Such as a100-80g:2x8, or a TOML file; this computer when not given. See `pipeline list machines`.",
    )(command)


def _parse_machine(ctx: click.Context, param: click.Parameter, value: str | None) -> Machine:
    from llavaflow.infra.machine import parse, this_machine

    return this_machine() if value is None else parse(value)


def emit(document: Json, as_json: bool, render: Callable[[Console], None]) -> None:
    """Write the result of a command to stdout: the JSON document, or what `render` prints."""
    if as_json:
        click.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    # a pipe or a file is not 80 columns wide: cut names cannot be copied
    render(Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False))
