"""The original LLaVA layout, in and out: one language model whose state also holds projector and, if trained, tower.

    model.layers.0...                                  the language model under its own names (MPT: `transformer.`)
    model.mm_projector.0.weight                        the projector
    model.vision_tower.vision_tower.vision_model...    the tower, only if it was trained; else config.json names it
    model.image_newline                                the newline of images in tiles
    vision_tower/                                      a ConvNeXt tower, apart from the rest as ConvLLaVA keeps it

Conversions rename and copy tensors; no value changes, so a round trip is exact.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from llavaflow.infra.errors import InputError
from llavaflow.models import llava as llavas
from llavaflow.models import projector as projectors
from llavaflow.models.backbone import original_body
from llavaflow.models.images import Aspect, Size, parse_pinpoints
from llavaflow.models.llava import Design, Llava, SelectFeature
from llavaflow.models.names import NEWLINE, TOWER, original_name, our_name
from llavaflow.models.parts import in_use
from llavaflow.models.vision import save_tower, shape_of
from llavaflow.models.weights import read_config, read_state

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

APART = "vision_tower"
# class and model type that upstream writes for a language model of this type
ARCHITECTURES = {
    "llama": ("LlavaLlamaForCausalLM", "llava_llama"),
    "mistral": ("LlavaMistralForCausalLM", "llava_mistral"),
    "qwen2": ("LlavaQwenForCausalLM", "llava_qwen"),
    "gemma": ("LlavaGemmaForCausalLM", "llava_gemma"),
    "mpt_text": ("LlavaMptForCausalLM", "llava_mpt"),
}
# what upstream's code does where the configuration does not say
DEFAULT_MERGE = "flat"


def from_original(source: Path, vision: str | None) -> Llava:
    """A model in transformers' class from an original LLaVA folder. `vision` replaces the tower it names."""
    import torch

    config, state = read_config(source), read_state(source)
    file = projectors.parse(state, str(source), config.get(llavas.PROJECTOR_KEY))
    llava = join(config, str(source), vision, file)
    model = llava.model.model
    projectors.check_fits(file.projector, llava.projector, str(source))
    if file.projector.depth:
        dtype = model.multi_modal_projector.linear_1.weight.dtype
        layers = projectors.to_transformers(file)
        model.multi_modal_projector.load_state_dict({key: value.to(dtype) for key, value in layers.items()})
    trained = {our_name(key, ""): value for key, value in state.items() if TOWER in key}
    if trained:
        _put_tower(llava, trained, str(source))
    if NEWLINE in state and llava.image_rule.aspect == "anyres":
        with torch.no_grad():
            model.image_newline.copy_(state[NEWLINE])
    if llavas.TEMPLATE_KEY in config:
        setattr(llava.model.config, llavas.TEMPLATE_KEY, config[llavas.TEMPLATE_KEY])
    # a tower of the hub comes in the type it was published in; a checkpoint has one type, and upstream casts it too
    llava.model.to(llava.model.lm_head.weight.dtype)
    return llava


def _put_tower(llava: Llava, trained: State, where: str) -> None:
    """Trained weights into the tower. NeXT's SigLIP ends before its last layer: what LLaVA does not use may lack, and
    stays as published."""
    own = {f"model.vision_tower.{key}" for key in llava.model.model.vision_tower.state_dict()}
    lacks = sorted(name for name in own - set(trained) if in_use(name, llava))
    foreign = sorted(set(trained) - own)
    if lacks or foreign:
        what = f"lacks {lacks[0]}" if lacks else f"has {foreign[0]}, which it has no place for"
        raise InputError(f"the tower in {where} is not the one that is named: it {what}. Say which with --vision.")
    llava.model.load_state_dict(trained, strict=False)


def join(config: dict[str, Any], language: str, vision: str | None, file: projectors.ProjectorFile) -> Llava:
    """A plain language model joined as an original configuration says, with a fresh projector of the file's kind."""
    tower = _tower(config, vision, Path(language))
    return llavas.build(tower, language, _design(config, file, tower), precision=None)


def _tower(config: dict[str, Any], vision: str | None, folder: Path) -> str:
    named = vision or config.get("mm_vision_tower")
    if not named:
        raise InputError(
            f"{folder}: config.json names no mm_vision_tower. Say which: --vision, or an evaluation's `model.vision`."
        )
    beside = folder / str(named)
    return str(beside if vision is None and (beside / "config.json").is_file() else named)


def _pinpoints(config: dict[str, Any], tower: str) -> tuple[Size, ...]:
    """Upstream's (width, height) pairs, written as a list or in a text; none where images are one tile."""
    from transformers import AutoConfig

    written = config.get("image_grid_pinpoints")
    return parse_pinpoints(str(written), shape_of(AutoConfig.from_pretrained(tower)).image) if written else ()


def _design(config: dict[str, Any], file: projectors.ProjectorFile, tower: str) -> Design:
    aspect: Any = config.get("image_aspect_ratio") or "square"
    if aspect not in get_args(Aspect):
        raise InputError(f"image_aspect_ratio {aspect}: known are {', '.join(get_args(Aspect))}.")
    feature: Any = config.get("mm_vision_select_feature", "patch")
    if feature not in get_args(SelectFeature):
        raise InputError(f"mm_vision_select_feature {feature}: known are {', '.join(get_args(SelectFeature))}.")
    merge = config.get("mm_patch_merge_type", DEFAULT_MERGE)
    if aspect == "anyres" and merge != "spatial_unpad":
        raise InputError(
            f"tiles joined by mm_patch_merge_type={merge}: transformers' LlavaNext knows spatial_unpad alone."
        )
    return Design(
        pinpoints=_pinpoints(config, tower) if aspect == "anyres" else (),
        projector=file.projector.kind,
        select_layer=config.get("mm_vision_select_layer", -2),
        select_feature=feature,
        image_aspect=aspect,
        im_start_end=bool(config.get("mm_use_im_start_end", False)),
    )


def to_original(llava: Llava, out: Path, vision: str | None = None) -> None:
    """Write the original layout: the language model's own files with projector and tower keys beside them.

    `vision`: what config.json names as the tower, which upstream opens before it puts the weights in.
    """
    from safetensors.torch import save_file

    body = original_body(llava.model.config.text_config)
    state: State = {}
    for name, value in llava.model.state_dict().items():
        if ".multi_modal_projector." not in name and not _is_tied_head(name, llava):
            state[original_name(name, body)] = value
    file = projectors.from_transformers(llava.model.state_dict(), llava.projector)
    prefix = projectors.PREFIX.replace("model.", body, 1)
    for key, value in file.state.items():
        state[prefix + (key.split(".")[1] if llava.projector.kind == "linear" else key)] = value
    out.mkdir(parents=True, exist_ok=True)
    if _is_apart(llava):
        save_tower(llava.model.model.vision_tower, out / APART)
        state = {name: value for name, value in state.items() if TOWER not in name}
    copies = {name: value.detach().clone().contiguous() for name, value in state.items()}
    save_file(copies, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(_settings(llava, vision), indent=2, default=str), "utf-8")
    llava.tokenizer.save_pretrained(out)


def _settings(llava: Llava, vision: str | None) -> dict[str, Any]:
    """The language model's configuration with upstream's words about the rest."""
    config, rule = llava.model.config, llava.image_rule
    architecture, model_type = ARCHITECTURES[config.text_config.model_type]
    tower = APART if _is_apart(llava) else vision
    in_tiles = {"image_grid_pinpoints": [list(pair) for pair in rule.pinpoints], "mm_patch_merge_type": rule.merge}
    return _old_words(config.text_config.to_dict()) | {
        **(in_tiles if rule.pinpoints else {}),
        **({"mm_vision_tower": tower} if tower else {}),
        **{key: getattr(config, key) for key in (llavas.TEMPLATE_KEY,) if hasattr(config, key)},
        "architectures": [architecture],
        "model_type": model_type,
        "mm_projector_type": llava.projector.kind,
        "mm_hidden_size": llava.projector.vision_width,
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "cls_patch" if rule.class_token else "patch",
        "image_aspect_ratio": rule.aspect,
        "unfreeze_mm_vision_tower": True,
        "mm_use_im_start_end": llava.im_start_end,
        "mm_use_im_patch_token": False,
    }


def _old_words(settings: dict[str, Any]) -> dict[str, Any]:
    """A configuration as the transformers of upstream's time reads it: it would take other rotations for 10,000."""
    rope = settings.pop("rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"} | {"type": kind}
    words = {"rope_theta": rope["rope_theta"], "rope_scaling": None if kind == "default" else scaling} if rope else {}
    return settings | words | {"torch_dtype": settings.pop("dtype", None)}


def _is_apart(llava: Llava) -> bool:
    return shape_of(llava.model.config).kind == "convnext"


def _is_tied_head(name: str, llava: Llava) -> bool:
    return name == llavas.HEAD and bool(llava.model.config.tie_word_embeddings)
