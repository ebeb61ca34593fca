"""LLaVA as transformers' own class: joined from a vision tower and a language model, loaded, saved.

    build("openai/clip-vit-large-patch14-336", "lmsys/vicuna-7b-v1.5", Design())   ready for pretraining
    load("path/or/name")                                                          a finished checkpoint

Both parts come through `from_pretrained`, so a hub name and a folder trained minutes ago share one path. What a
checkpoint must know to be used right (which layer, which tokens, how pictures become pixels) is written into the
configuration and the processor, so that plain transformers needs nothing of this project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llavaflow.infra.errors import InputError
from llavaflow.models import anyres
from llavaflow.models import projector as projectors
from llavaflow.models.images import CLIP_MEAN, CLIP_STD, Aspect, ImageRule, Size
from llavaflow.models.projector import Projector
from llavaflow.models.vision import TowerKind, add_stage, load_tower, set_image_size, shape_of

if TYPE_CHECKING:
    import torch

IMAGE_TOKEN = "<image>"
ROWS_MULTIPLE = 64
ORIGINAL_LANGUAGES = {"Llama": "llama", "Mistral": "mistral", "Qwen": "qwen2"}
TEMPLATE_KEY = "conversation_template"
CONVLLAVA = "convllava"
SelectFeature = Literal["patch", "cls_patch"]
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """How tower and language model are joined.

    select_layer    hidden states of the tower that become tokens, counted from the end
    select_feature  `patch` drops the class token, `cls_patch` keeps it
    pinpoints       (width, height) that anyres may choose from
    image_size_px   another resolution of a ConvNeXt tower; None keeps the tower's own
    added_stage     blocks and width of a fifth stage on a ConvNeXt of four
    """

    projector: str = "mlp2x_gelu"
    select_layer: int = -2
    select_feature: SelectFeature = "patch"
    image_aspect: Aspect = "pad"
    pinpoints: tuple[Size, ...] = ()
    image_size_px: int | None = None
    added_stage: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Llava:
    """A model with all that belongs to it: the processor plain transformers uses, and the same rule for training."""

    model: Any
    processor: Any
    image_rule: ImageRule
    projector: Projector

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def image_token_id(self) -> int:
        return int(self.model.config.image_token_id)


def build(
    vision: str,
    language: str,
    design: Design,
    *,
    precision: Precision | None = "float32",
    seed: int = 0,
    attention: str = "sdpa",
) -> Llava:
    """Join a vision tower and a language model with a fresh projector that depends on `seed` alone."""
    import torch
    from transformers import GenerationConfig

    in_tiles = design.image_aspect == "anyres"
    tower = _tower(vision, precision, design, seed)
    shape = shape_of(tower.config)
    config_class, model_class = _classes(_form(in_tiles, shape.kind))
    patches_only = design.select_feature == "patch"
    tokenizer, text = _language(language, precision, attention)
    config = config_class(
        vision_config=tower.config,
        text_config=text.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=shape.tokens,
        projector_hidden_act=projectors.activation(design.projector),
        vision_feature_layer=design.select_layer,
        vision_feature_select_strategy="default" if shape.class_token and patches_only else "full",
        tie_word_embeddings=text.config.tie_word_embeddings,
        **({"image_grid_pinpoints": anyres.grid(design.pinpoints)} if in_tiles else {}),
    )
    with torch.device("meta"):
        model = model_class(config)
    model.model.vision_tower = tower
    model.model.language_model = text.model
    model.lm_head = text.lm_head
    kind = Projector(kind=design.projector, vision_width=shape.hidden, language_width=text.config.hidden_size)
    model.model.multi_modal_projector = _fresh_projector(model, kind, seed)
    if in_tiles:
        model.model.image_newline = anyres.fresh_newline(text.config.hidden_size, seed, model.lm_head.weight.dtype)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    rule = _image_rule(vision, tower.config, design)
    return Llava(model=model, processor=_processor(rule, tokenizer, config), image_rule=rule, projector=kind)


def load(path: str, *, precision: Precision | None = "float32", attention: str = "sdpa") -> Llava:
    """A LLaVA checkpoint in Hugging Face format, with the training rule that its processor states."""
    from transformers import AutoProcessor

    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise InputError(f"{path} is no Hugging Face checkpoint: it has no config.json.")
    form = _model_type(path)
    _, model_class = _classes(form)
    # a ConvNeXt has no attention to choose a kernel for
    kernel = {"text_config": attention, "vision_config": "eager"} if form == CONVLLAVA else attention
    model = model_class.from_pretrained(path, dtype=dtype(precision), attn_implementation=kernel)
    processor = AutoProcessor.from_pretrained(path)
    config = model.config
    return Llava(
        model=model,
        processor=processor,
        image_rule=_rule_of_processor(processor, config),
        projector=Projector(
            kind="mlp2x_gelu" if config.projector_hidden_act == "gelu" else "linear",
            vision_width=shape_of(config).hidden,
            language_width=config.text_config.hidden_size,
        ),
    )


def save(llava: Llava, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write model, processor and tokenizer; `state` is the gathered weights when the model's own are sharded."""
    llava.model.save_pretrained(folder, state_dict=dict(state) if state is not None else None)
    llava.processor.save_pretrained(folder)


def template_of(config: Any) -> str:
    """The conversation template that a checkpoint was trained with; v1 when it does not say."""
    return str(getattr(config, TEMPLATE_KEY, None) or "v1")


def dtype(precision: Precision | None) -> torch.dtype | Literal["auto"]:
    """The torch type of the weights; None keeps what is stored."""
    return "auto" if precision is None else _dtype(precision)


def _dtype(precision: Precision) -> torch.dtype:
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32


def load_projector(llava: Llava, path: Path) -> None:
    """Put the weights of a projector file into the model, after checking that they fit."""
    file = projectors.read(path)
    projectors.check_fits(file.projector, llava.projector, str(path))
    module = llava.model.model.multi_modal_projector
    module.load_state_dict({key: value.to(module.linear_1.weight.dtype) for key, value in _named(file).items()})


def _named(file: projectors.ProjectorFile) -> dict[str, Any]:
    return projectors.to_transformers(file)


def _form(in_tiles: bool, tower: TowerKind) -> str:
    """The model type of transformers that joins this tower in this way."""
    if in_tiles and tower == "convnext":
        raise InputError("a ConvNeXt tower takes one image of any size: it is not cut into tiles (image_aspect=pad).")
    return anyres.MODEL_TYPE if in_tiles else CONVLLAVA if tower == "convnext" else "llava"


def _classes(model_type: str) -> tuple[Any, Any]:
    """Configuration and model of a form. What is no form of LLaVA is left to transformers' Llava to refuse."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    if model_type == anyres.MODEL_TYPE:
        return anyres.classes()
    if model_type == CONVLLAVA:
        from llavaflow.models.convnext import ConvLlavaConfig, ConvLlavaForConditionalGeneration

        return ConvLlavaConfig, ConvLlavaForConditionalGeneration
    return LlavaConfig, LlavaForConditionalGeneration


def _model_type(path: str) -> str:
    """The form of a checkpoint. A local one says so itself: ours may be none that transformers knows by name."""
    from transformers import AutoConfig

    file = Path(path) / "config.json"
    if file.is_file():
        return str(json.loads(file.read_text("utf-8")).get("model_type"))
    return str(AutoConfig.from_pretrained(path).model_type)


def _tower(name: str, precision: Precision | None, design: Design, seed: int) -> Any:
    """The tower as the design has it: a ConvNeXt may get a fifth stage and another resolution."""
    tower = load_tower(name, None if precision is None else _dtype(precision))
    if design.added_stage is not None:
        blocks, width = design.added_stage
        add_stage(tower, depth=blocks, width=width, seed=seed)
    if design.image_size_px is not None:
        set_image_size(tower, design.image_size_px)
    return tower


def _language(name: str, precision: Precision | None, attention: str) -> tuple[Any, Any]:
    """Tokenizer and language model, with a token and an embedding row for the image."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    config = _text_config(name)
    model = AutoModelForCausalLM.from_pretrained(
        name, config=config, dtype=dtype(precision), attn_implementation=attention
    )
    _grow_vocabulary(model, len(tokenizer))
    return tokenizer, model


def _text_config(name: str) -> Any:
    """None for a plain language model; for an original LLaVA folder the configuration of the language model in it,
    which transformers would take for its own Llava class."""
    from transformers import AutoConfig

    path = Path(name) / "config.json"
    settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if "mm_projector_type" not in settings and "mm_vision_tower" not in settings:
        return None
    architecture = str(settings.pop("architectures", ["LlavaLlamaForCausalLM"])[0])
    settings.pop("model_type", None)
    kind = next((kind for word, kind in ORIGINAL_LANGUAGES.items() if word in architecture), None)
    if kind is None:
        raise InputError(f"{path} has architecture {architecture}; known: {', '.join(ORIGINAL_LANGUAGES)}.")
    return AutoConfig.for_model(kind, **settings)


def _grow_vocabulary(model: Any, needed: int) -> None:
    """Add rows up to the tokenizer's size. New rows are the mean of the old: they never win, and need no seed."""
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    if needed <= rows:
        return
    model.resize_token_embeddings(needed, pad_to_multiple_of=ROWS_MULTIPLE, mean_resizing=False)
    with torch.no_grad():
        for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            table[rows:] = table[:rows].float().mean(dim=0).to(table.dtype)


def _fresh_projector(model: Any, kind: Projector, seed: int) -> Any:
    """A projector initialised as upstream's (torch's default for linear layers), missing layers set to identity."""
    import torch

    if kind.kind == "identity" and kind.vision_width != kind.language_width:
        raise InputError(f"projector identity needs equal widths, got {kind.vision_width} -> {kind.language_width}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {
            f"{2 * place}.{part}": value
            for place in range(kind.depth)
            for part, value in torch.nn.Linear(
                kind.vision_width if place == 0 else kind.language_width, kind.language_width
            )
            .state_dict()
            .items()
        }
    fresh = type(model.model.multi_modal_projector)(model.config).to(torch.float32)
    file = projectors.ProjectorFile(projector=kind, state=layers)
    fresh.load_state_dict(projectors.to_transformers(file))
    return fresh.to(model.lm_head.weight.dtype)


def _image_rule(vision: str, config: Any, design: Design) -> ImageRule:
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(vision)
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    except OSError:
        mean, std = CLIP_MEAN, CLIP_STD
    shape = shape_of(config)
    return ImageRule(
        aspect=design.image_aspect,
        size=shape.image,
        patch=shape.stride,
        mean=mean,
        std=std,
        class_token=shape.class_token and design.select_feature == "cls_patch",
        crop=shape.crops,
        pinpoints=design.pinpoints,
    )


def _processor(rule: ImageRule, tokenizer: Any, config: Any) -> Any:
    """The processor that gives plain transformers the same pixels and the same token counts as training had."""
    from transformers import LlavaImageProcessor, LlavaNextProcessor, LlavaProcessor

    in_tiles = rule.aspect == "anyres"
    square = {"height": rule.size, "width": rule.size}
    images = (
        anyres.image_processor(rule)
        if in_tiles
        else LlavaImageProcessor(
            do_pad=rule.aspect == "pad",
            do_center_crop=rule.crop,
            size={"shortest_edge": rule.size} if rule.crop else square,
            crop_size=square,
            image_mean=list(rule.mean),
            image_std=list(rule.std),
        )
    )
    return (LlavaNextProcessor if in_tiles else LlavaProcessor)(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=rule.patch,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(shape_of(config).class_token),
        image_token=IMAGE_TOKEN,
    )


def _rule_of_processor(processor: Any, config: Any) -> ImageRule:
    images = processor.image_processor
    in_tiles = config.model_type == anyres.MODEL_TYPE
    return ImageRule(
        aspect="anyres" if in_tiles else "pad" if getattr(images, "do_pad", False) else "square",
        pinpoints=anyres.pinpoints_of(images) if in_tiles else (),
        size=shape_of(config).image,
        patch=shape_of(config).stride,
        mean=tuple(images.image_mean),
        std=tuple(images.image_std),
        class_token=config.vision_feature_select_strategy == "full" and processor.num_additional_image_tokens > 0,
        crop=bool(images.do_center_crop),
    )
