"""`pipeline ask`: one answer about one picture, from a checkpoint in any format or from a model that a server has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.pipelines._cli._options import emit, json_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.store import ArtifactStore

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("checkpoint")
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("--template", "template_name", metavar="NAME", help="Conversation template; default: the checkpoint's.")
@click.option("--base", type=FOLDER, help="The checkpoint that an adapter was trained on.")
@click.option("--vision", metavar="NAME", help="Vision tower, where neither checkpoint nor base contains or names it.")
@click.option("--model", metavar="NAME", help="What the server calls its model.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@store_option
@json_option
def command(
    checkpoint: str,
    image: Path,
    question: str,
    template_name: str | None,
    base: Path | None,
    vision: str | None,
    model: str | None,
    max_new_tokens: int,
    store: ArtifactStore,
    as_json: bool,
) -> None:
    """Ask CHECKPOINT one QUESTION about IMAGE; greedy decoding.

    CHECKPOINT is a REF such as llava15-tiny/finetune, a folder (Hugging Face or original LLaVA format, or an adapter
    with --base), or the address of an OpenAI-compatible server (http://HOST:PORT/v1 with --model).
    """
    try:
        data = image.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the picture {image}: {error.strerror}.") from error
    if checkpoint.startswith(("http://", "https://")):
        said = _ask_server(checkpoint, model, image, question, max_new_tokens)
    else:
        folder = find_checkpoint(checkpoint, store)
        said = _ask_folder(folder, base, vision, image, data, question, template_name, max_new_tokens)

    def render(console: Console) -> None:
        console.print(said["answer"], highlight=False, markup=False)

    emit({"checkpoint": checkpoint, "image": str(image), "question": question, **said}, as_json, render)


def _ask_server(url: str, model: str | None, image: Path, question: str, max_new_tokens: int) -> dict[str, Json]:
    from llavaflow.stages._served import Served, ask_served

    if model is None:
        raise InputError("an address needs the model's name on that server: give --model NAME.")
    return {"model": model, "answer": ask_served(Served(url=url, model=model), question, image, max_new_tokens)}


def _ask_folder(
    folder: Path,
    base: Path | None,
    vision: str | None,
    image: Path,
    data: bytes,
    question: str,
    template_name: str | None,
    max_new_tokens: int,
) -> dict[str, Json]:
    import torch
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    from llavaflow.models.generate import ask
    from llavaflow.models.llava import template_of
    from llavaflow.models.opening import open_checkpoint
    from llavaflow.models.pixels import ImageError, open_image

    try:
        picture = open_image(data)
    except ImageError as error:
        raise InputError(f"{image} is not a usable picture: {error}.") from error
    llava = open_checkpoint(folder, base=base, vision=vision)
    if torch.cuda.is_available():
        llava.model.to("cuda")
    form = template_name or template_of(llava.model.config)
    return {"template": form, "answer": ask(llava, form, question, picture, max_new_tokens)}


def find_checkpoint(name: str, store: ArtifactStore) -> Path:
    """The folder of a checkpoint: a plain one, the one inside an artifact, or that of a reference."""
    from llavaflow.infra.reference import find_reference

    place = Path(name)
    if not any((place / file).is_file() for file in ("config.json", "model/config.json", "adapter_config.json")):
        place = find_reference(name, store).path
    return place / "model" if (place / "model" / "config.json").is_file() else place
