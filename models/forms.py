"""Forms: which class of transformers, or which of ours on top of it, joins a tower, a projector and a language model.

    llava, llava_next              transformers' own: projectors of two layers, one tile or many
    deep_llava, deep_llava_next    the same with a projector of three layers and more (`deep_projector.py`)
    convllava                      a ConvNeXt tower (`convnext.py`)
    mpt_llava                      an MPT language model (`mpt.py`)

The classes of ours travel inside the checkpoint (`auto_map`): plain transformers loads it with
`trust_remote_code=True` and nothing of this project. What no published model combines is refused.
"""

from __future__ import annotations

from typing import Any

from llavaflow.infra.errors import InputError
from llavaflow.models import anyres
from llavaflow.models.vision import TowerKind

LLAVA, CONVLLAVA, MPT = "llava", "convllava", "mpt_llava"
IN_TILES = (anyres.MODEL_TYPE, f"deep_{anyres.MODEL_TYPE}")
FORMS = (LLAVA, *IN_TILES, "deep_llava", CONVLLAVA, MPT)
MPT_TEXT = "mpt_text"


def form(*, in_tiles: bool, tower: TowerKind, language: str, depth: int) -> str:
    """The form that joins a tower, a language model (its model type) and a projector of so many layers."""
    mpt, conv, deep = language == MPT_TEXT, tower == "convnext", depth > 2
    if in_tiles and conv:
        raise InputError("a ConvNeXt tower takes one image of any size: it is not cut into tiles (image_aspect=pad).")
    if mpt + conv + deep > 1 or (mpt and in_tiles):
        parts = [
            name
            for name, there in (("MPT", mpt), ("ConvNeXt", conv), (f"{depth} layers", deep), ("tiles", in_tiles))
            if there
        ]
        raise InputError(f"no class joins {' and '.join(parts)}: take a projector of two layers, and one of the rest.")
    if mpt or conv:
        return MPT if mpt else CONVLLAVA
    plain = anyres.MODEL_TYPE if in_tiles else LLAVA
    return f"deep_{plain}" if deep else plain


def classes(name: str) -> tuple[Any, Any]:
    """Configuration and model of a form. Raises InputError for what is none, such as a CLIP."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    if name not in FORMS:
        raise InputError(f"a '{name}' model is no LLaVA that we know. Known: {', '.join(FORMS)}.")
    if name == anyres.MODEL_TYPE:
        return anyres.classes()
    if name == CONVLLAVA:
        from llavaflow.models.convnext import ConvLlavaConfig, ConvLlavaForConditionalGeneration

        return ConvLlavaConfig, ConvLlavaForConditionalGeneration
    if name == MPT:
        from llavaflow.models.mpt import MptLlavaConfig, MptLlavaForConditionalGeneration

        return MptLlavaConfig, MptLlavaForConditionalGeneration
    if name.startswith("deep_"):
        from llavaflow.models import deep_projector as deep

        if name in IN_TILES:
            return deep.DeepLlavaNextConfig, deep.DeepLlavaNextForConditionalGeneration
        return deep.DeepLlavaConfig, deep.DeepLlavaForConditionalGeneration
    return LlavaConfig, LlavaForConditionalGeneration


def form_of(path: str) -> str:
    """The form of a checkpoint (folder or hub name), read without building its configuration: AutoConfig would ask the
    user about the code that lies in it, although the classes are here."""
    from transformers import PretrainedConfig

    settings, _ = PretrainedConfig.get_config_dict(path)
    if "vision_config" not in settings and "mm_vision_tower" in settings:
        raise InputError(
            f"{path} is in the original LLaVA format. Bring it into the other one first: "
            f"pipeline checkpoint convert {path} OUT --to hf"
        )
    return str(settings.get("model_type"))
