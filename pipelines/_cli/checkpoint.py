"""`pipeline checkpoint`: look into projector and checkpoint files, and turn them into one another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
@click.option("--base", type=FOLDER, help="The LLaVA or language model that PATH is meant for: checks the fit.")
@json_option
def inspect(path: Path, base: Path | None, as_json: bool) -> None:
    """Say what PATH is: format, projector type and widths, and whether it fits --base."""
    from llavaflow.models.checkpoint import describe

    _emit(describe(path, base), as_json)


@command.command()
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--to", "form", type=click.Choice(["hf", "original", "projector"]), required=True)
@click.option("--vision", help="Vision tower (hub name or folder) that SOURCE does not contain or OUT is to name.")
@json_option
def convert(source: Path, out: Path, form: str, vision: str | None, as_json: bool) -> None:
    """Convert SOURCE to OUT: Hugging Face format, the original LLaVA format, or the projector alone."""
    from llavaflow.models.checkpoint import convert, describe

    with _new_folder(out) as scratch:
        convert(source, scratch, form, vision)
    _emit(describe(out), as_json)


@command.command()
@click.argument("adapter", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--base", type=FOLDER, required=True, help="The LLaVA checkpoint, or language model, it was made on.")
@click.option("--vision", help="Vision tower (hub name or folder) when neither ADAPTER nor base contains or names it.")
@json_option
def merge_lora(adapter: Path, out: Path, base: Path, vision: str | None, as_json: bool) -> None:
    """Merge an ADAPTER folder (adapter and non_lora_trainables.bin) into its base and write a whole model to OUT."""
    from llavaflow.models.checkpoint import describe, merge_lora

    with _new_folder(out) as scratch:
        merge_lora(adapter, base, scratch, vision)
    _emit(describe(out), as_json)


@command.command()
@click.argument("base", type=FOLDER)
@click.argument("delta", type=FOLDER)
@click.argument("out", type=FOLDER)
@json_option
def apply_delta(base: Path, delta: Path, out: Path, as_json: bool) -> None:
    """Add legacy DELTA weights to the original language model BASE and write the sum to OUT."""
    from llavaflow.models.checkpoint import apply_delta

    with _new_folder(out) as scratch:
        document = apply_delta(base, delta, scratch)
    _emit(document | {"path": str(out)}, as_json)


def _quiet() -> None:
    """transformers reports every weight that a checkpoint has beyond a class: here that is as it should be."""
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A scratch folder beside `out` that becomes it when all is written. Raises InputError when `out` is taken, or no
    folder can be made there."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already and nothing is overwritten: name a new folder.")
    _quiet()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}. Choose another place.") from error
    try:
        yield scratch
        # mkdtemp makes folders for the owner's eyes only
        scratch.chmod(0o755)
        scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _emit(document: dict[str, Json], as_json: bool) -> None:
    def render(console: Console) -> None:
        for key, value in document.items():
            console.print(f"{key:20} {value}", highlight=False, markup=False)

    emit(document, as_json, render)
