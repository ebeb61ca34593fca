"""`pipeline checkpoint`: look into projector and checkpoint files, and turn them into one another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.pipelines._cli._options import emit, json_option

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Inspect, convert and merge LLaVA checkpoints (original and Hugging Face formats)."""


@command.command()
@click.argument("path", type=FOLDER)
@click.option("--base", type=FOLDER, help="A checkpoint that the projector or adapter is meant for: checks the fit.")
@json_option
def inspect(path: Path, base: Path | None, as_json: bool) -> None:
    """Say what PATH is: format, projector type and widths, and whether it fits --base."""
    from llavaflow.models.checkpoint import describe

    _emit(describe(path, base), as_json)


@command.command()
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--to", "form", type=click.Choice(["hf", "original", "projector"]), required=True)
@click.option("--vision", help="Vision tower (hub name or folder) when the source does not contain it.")
@json_option
def convert(source: Path, out: Path, form: str, vision: str | None, as_json: bool) -> None:
    """Convert SOURCE to OUT: Hugging Face format, the original LLaVA format, or the projector alone."""
    from llavaflow.models.checkpoint import convert

    _check_new(out)
    _emit(convert(source, out, form, vision), as_json)


@command.command()
@click.argument("adapter", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--base", type=FOLDER, required=True, help="Hugging Face LLaVA checkpoint that the adapter was made on.")
@json_option
def merge_lora(adapter: Path, out: Path, base: Path, as_json: bool) -> None:
    """Merge an ADAPTER folder (adapter and non_lora_trainables.bin) into its base and write a whole model to OUT."""
    from llavaflow.models.checkpoint import describe
    from llavaflow.models.llava import load, save
    from llavaflow.models.lora import merge_folder

    _check_new(out)
    llava = load(str(base), precision=None)
    merge_folder(llava, adapter)
    save(llava, out)
    _emit(describe(out), as_json)


@command.command()
@click.argument("base", type=FOLDER)
@click.argument("delta", type=FOLDER)
@click.argument("out", type=FOLDER)
@json_option
def apply_delta(base: Path, delta: Path, out: Path, as_json: bool) -> None:
    """Add legacy DELTA weights to the original language model BASE and write the sum to OUT."""
    from llavaflow.models.checkpoint import apply_delta

    _check_new(out)
    _emit(apply_delta(base, delta, out), as_json)


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already and nothing is overwritten: name a new folder.")


def _emit(document: dict[str, Json], as_json: bool) -> None:
    def render(console: Console) -> None:
        for key, value in document.items():
            console.print(f"{key:20} {value}", highlight=False, markup=False)

    emit(document, as_json, render)
