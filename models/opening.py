"""A model ready to answer, from any format: Hugging Face, original LLaVA, or an adapter with its base."""

from __future__ import annotations

from pathlib import Path

from llavaflow.infra.errors import InputError
from llavaflow.models import llava as llavas
from llavaflow.models import lora, original
from llavaflow.models.backbone import Precision, dtype
from llavaflow.models.checkpoint import base_of, format_of
from llavaflow.models.llava import Llava


def open_checkpoint(
    path: Path, *, base: Path | None = None, vision: str | None = None, precision: Precision | None = None
) -> Llava:
    """The model of a folder; `base` is what an adapter was trained on, `vision` the tower where none is named.

    Raises InputError for an adapter without base, and for what holds no whole model.
    """
    form = format_of(path)
    if form == "hf":
        return llavas.load(str(path), precision=precision)
    if form == "original":
        llava = original.from_original(path, vision)
    elif form == "lora":
        if base is None:
            raise InputError(
                f"{path} is an adapter: name what it was trained on: --base, or an evaluation's `model.base`."
            )
        llava = base_of(path, base, vision)
        lora.merge_folder(llava, path)
    else:
        raise InputError(
            f"{path} holds a projector and no whole model. A pretrain stage leaves no more than that: take a finetune "
            "or publish stage, or an adapter with its base."
        )
    if precision is not None:
        llava.model.to(dtype(precision))
    return llava
