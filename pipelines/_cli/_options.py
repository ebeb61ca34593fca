"""Options and output that every command shares.

    @click.command()
    @store_option          # store: ArtifactStore
    @machine_option        # machine: Machine
    @recipe_options        # recipe: Recipe
    @json_option           # as_json: bool
    def command(recipe, store, machine, as_json) -> None:
        emit(document, as_json, render)

`emit` writes the one JSON document of a command, or calls `render` with a console; everything else that a command
has to say goes to stderr.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from llavaflow.infra.artifact import Json

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.machine import Machine
    from llavaflow.infra.store import ArtifactStore
    from llavaflow.pipelines._recipe import Recipe

Command = TypeVar("Command", bound=Callable[..., Any])
DEFAULT_STORE = ".llavaflow"
SET_HELP = "Replace one setting; repeatable."


class Usd(click.FloatRange):
    """Dollars: nothing is past a limit of nan, and infinity is none."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no amount of dollars.", param, ctx)
        return found


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
    """`--machine KIND[:NODESxGPUS][@TOKENS]`, passed as a Machine named `machine`; this computer without it."""
    return click.option(
        "--machine",
        metavar="KIND[:NODESxGPUS][@TOKENS]",
        default=None,
        callback=_parse_machine,
        help="Such as a100-80g:2x8, or a TOML file; this computer when not given (`pipeline list machines`). "
        "@TOKENS: of a micro-step on one device, where its memory should not decide.",
    )(command)


def _parse_machine(ctx: click.Context, param: click.Parameter, value: str | None) -> Machine:
    from llavaflow.infra.machine import parse, this_machine

    return this_machine() if value is None else parse(value)


def recipe_options(command: Command) -> Command:
    """`RECIPE`, `--from-zoo NAME` and `--set STAGE.FIELD=VALUE`, passed as a Recipe named `recipe`."""
    wrapped = _with_recipe(command)
    for decorate in (
        click.option("--set", "settings", metavar="STAGE.FIELD=VALUE", multiple=True, help=SET_HELP),
        click.option("--from-zoo", metavar="NAME", help="Start from published weights; see `pipeline list zoo`."),
        click.argument("recipe"),
    ):
        wrapped = decorate(wrapped)
    return wrapped


def _with_recipe(command: Command) -> Command:
    @functools.wraps(command)
    def call(*, recipe: str, from_zoo: str | None, settings: tuple[str, ...], **others: Any) -> Any:
        return command(recipe=_chosen(recipe, from_zoo, settings), **others)

    return cast(Command, call)


def _chosen(name: str, from_zoo: str | None, settings: tuple[str, ...]) -> Recipe:
    from llavaflow.pipelines._catalogue import find_recipe
    from llavaflow.pipelines._from_zoo import start_from_zoo
    from llavaflow.pipelines._settings import apply_settings

    recipe = find_recipe(name)
    return apply_settings(recipe if from_zoo is None else start_from_zoo(recipe, from_zoo), settings)


def emit(document: Json, as_json: bool, render: Callable[[Console], None]) -> None:
    """Write the result of a command to stdout: the JSON document, or what `render` prints."""
    if as_json:
        click.echo(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    # a pipe or a file is not 80 columns wide: cut names cannot be copied
    render(Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False))
