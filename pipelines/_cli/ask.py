"""`pipeline ask`: one answer from a checkpoint about one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llavaflow.infra.errors import InputError
from llavaflow.pipelines._cli._options import emit, json_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.store import ArtifactStore


@click.command()
@click.argument("checkpoint")
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("--template", "template_name", metavar="NAME", help="Conversation template; default: the checkpoint's.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@store_option
@json_option
def command(
    checkpoint: str,
    image: Path,
    question: str,
    template_name: str | None,
    max_new_tokens: int,
    store: ArtifactStore,
    as_json: bool,
) -> None:
    """Ask CHECKPOINT (REF such as llava15-tiny/finetune, or a folder) one QUESTION about IMAGE; greedy decoding."""
    folder = find_checkpoint(checkpoint, store)
    try:
        data = image.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the picture {image}: {error.strerror}.") from error
    import torch
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    from llavaflow.models.generate import ask
    from llavaflow.models.llava import load, template_of
    from llavaflow.models.pixels import ImageError, open_image

    try:
        picture = open_image(data)
    except ImageError as error:
        raise InputError(f"{image} is not a usable picture: {error}.") from error
    llava = load(folder, precision=None)
    if torch.cuda.is_available():
        llava.model.to("cuda")
    form = template_name or template_of(llava.model.config)
    text = ask(llava, form, question, picture, max_new_tokens)

    def render(console: Console) -> None:
        console.print(text, highlight=False, markup=False)

    document = {"checkpoint": checkpoint, "image": str(image), "question": question, "template": form, "answer": text}
    emit(document, as_json, render)


def find_checkpoint(name: str, store: ArtifactStore) -> str:
    """The folder of a Hugging Face checkpoint: a plain one, the one inside an artifact, or that of a reference."""
    from llavaflow.infra.reference import find_reference

    place = Path(name)
    if not (place / "config.json").is_file() and not (place / "model" / "config.json").is_file():
        place = find_reference(name, store).path
    folder = place / "model" if (place / "model" / "config.json").is_file() else place
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{name} holds no whole model in Hugging Face format (looked in {folder}). "
            "A pretrain stage leaves a projector only; ask a finetune or publish stage."
        )
    return str(folder)
