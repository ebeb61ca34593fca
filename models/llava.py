"""LLaVA as transformers' own class: joined from a vision tower and a language model, loaded, saved.

    build("openai/clip-vit-large-patch14-336", "lmsys/vicuna-7b-v1.5", Design())   ready for pretraining
    load("path/or/name")                                                          a finished checkpoint

Both parts come through `from_pretrained`, so a hub name and a folder trained minutes ago share one path. What a
checkpoint must know to be used right (which layer, which tokens, how pictures become pixels) is written into the
configuration and the processor, so that plain transformers needs nothing of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llavaflow.infra.errors import InputError
from llavaflow.models import anyres
from llavaflow.models import projector as projectors
from llavaflow.models.backbone import IMAGE_TOKEN, Backbone, Precision, dtype, load_backbone
from llavaflow.models.chat_templates import jinja
from llavaflow.models.forms import CONVLLAVA, IN_TILES, MPT, classes, form, form_of
from llavaflow.models.images import Aspect, ImageRule, Size
from llavaflow.models.processing import image_rule, load_processor, processor_of, rule_of
from llavaflow.models.projector import Projector
from llavaflow.models.quantization import Quantization, settings_of
from llavaflow.models.templates import template
from llavaflow.models.vision import add_stage, load_tower, set_image_size, shape_of
from llavaflow.models.weights import load_whole

if TYPE_CHECKING:
    import torch

TEMPLATE_KEY = "conversation_template"
# upstream's words in a configuration
PROJECTOR_KEY, MARKS_KEY = "mm_projector_type", "mm_use_im_start_end"
HEAD = "lm_head.weight"
SelectFeature = Literal["patch", "cls_patch"]


@dataclass(frozen=True, kw_only=True)
class Design:
    """How tower and language model are joined.

    select_layer    hidden states of the tower that become tokens, counted from the end
    select_feature  `patch` drops the class token, `cls_patch` keeps it
    pinpoints       (width, height) that anyres may choose from
    image_size_px   another resolution of a ConvNeXt tower; None keeps the tower's own
    added_stage     blocks and width of a fifth stage on a ConvNeXt of four
    im_start_end    every image stands between two tokens of its own (`marks.py`)
    """

    projector: str = "mlp2x_gelu"
    select_layer: int = -2
    select_feature: SelectFeature = "patch"
    image_aspect: Aspect = "pad"
    pinpoints: tuple[Size, ...] = ()
    image_size_px: int | None = None
    added_stage: tuple[int, int] | None = None
    im_start_end: bool = False


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

    @property
    def im_start_end(self) -> bool:
        """Whether images stand between <im_start> and <im_end>."""
        return bool(getattr(self.model.config, MARKS_KEY, False))

    @property
    def mark_ids(self) -> list[int]:
        """Ids of <im_start> and <im_end>; none in a model without them."""
        from llavaflow.models.marks import MARKS

        return [int(number) for number in self.tokenizer.convert_tokens_to_ids(MARKS)] if self.im_start_end else []


def build(
    vision: str,
    language: str,
    design: Design,
    *,
    precision: Precision | None = "float32",
    seed: int = 0,
    attention: str = "sdpa",
    quantization: Quantization | None = None,
) -> Llava:
    """Join a vision tower and a language model with a fresh projector that depends on `seed` alone."""
    import torch
    from transformers import GenerationConfig

    tower = _tower(vision, precision, design, seed)
    text = load_backbone(
        language, precision, attention=attention, im_start_end=design.im_start_end, quantization=quantization
    )
    tokenizer, shape = text.tokenizer, shape_of(tower.config)
    kind = Projector(kind=design.projector, vision_width=shape.hidden, language_width=text.config.hidden_size)
    config, model_class = _configuration(design, kind, tower, text)
    with torch.device("meta"):
        model = model_class(config)
    model.model.vision_tower = tower
    model.model.language_model = text.body
    model.lm_head = text.head
    model.model.multi_modal_projector = _fresh_projector(model, kind, seed)
    if design.image_aspect == "anyres":
        model.model.image_newline = anyres.fresh_newline(text.config.hidden_size, seed, model.lm_head.weight.dtype)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    rule = image_rule(
        vision,
        tower.config,
        aspect=design.image_aspect,
        class_token=design.select_feature == "cls_patch",
        pinpoints=design.pinpoints,
    )
    return Llava(model=model, processor=processor_of(rule, tokenizer, config), image_rule=rule, projector=kind)


def _configuration(design: Design, kind: Projector, tower: Any, text: Backbone) -> tuple[Any, Any]:
    """Configuration and class of the joined model."""
    shape, in_tiles = shape_of(tower.config), design.image_aspect == "anyres"
    # the embeddings come before the first layer
    if not -shape.layers - 1 <= design.select_layer <= shape.layers:
        raise InputError(f"select_layer {design.select_layer}: the vision tower has {shape.layers} layers.")
    name = form(in_tiles=in_tiles, tower=shape.kind, language=text.config.model_type, depth=kind.depth)
    config_class, model_class = classes(name)
    patches_only = design.select_feature == "patch"
    config = config_class(
        vision_config=tower.config,
        text_config=text.config,
        image_token_index=text.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=shape.tokens,
        projector_hidden_act=projectors.activation(kind.kind),
        vision_feature_layer=design.select_layer,
        vision_feature_select_strategy="default" if shape.class_token and patches_only else "full",
        tie_word_embeddings=text.config.tie_word_embeddings,
        **({"image_grid_pinpoints": anyres.grid(design.pinpoints)} if in_tiles else {}),
        **({"projector_depth": kind.depth} if name.startswith("deep_") else {}),
    )
    setattr(config, PROJECTOR_KEY, kind.kind)
    setattr(config, MARKS_KEY, design.im_start_end)
    return config, model_class


def load(
    path: str,
    *,
    precision: Precision | None = "float32",
    attention: str = "sdpa",
    quantization: Quantization | None = None,
) -> Llava:
    """A LLaVA checkpoint in Hugging Face format, with the training rule that its processor states."""
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise InputError(f"{path} is no Hugging Face checkpoint: it has no config.json.")
    name = form_of(path)
    _, model_class = classes(name)
    kernel: dict[str, str] | str = attention
    if name in (CONVLLAVA, MPT):
        # a ConvNeXt has no attention to choose a kernel for, MPT has one implementation
        eager = "vision_config" if name == CONVLLAVA else "text_config"
        kernel = {"text_config": attention, "vision_config": attention} | {eager: "eager"}
    few_bits = settings_of(quantization, precision) if quantization else {}
    model = load_whole(model_class, path, dtype=dtype(precision), attn_implementation=kernel, **few_bits)
    processor = load_processor(path, in_tiles=name in IN_TILES)
    config = model.config
    return Llava(
        model=model,
        processor=processor,
        image_rule=rule_of(processor, config),
        projector=Projector(
            kind=projector_kind(config.to_dict()),
            vision_width=shape_of(config).hidden,
            language_width=config.text_config.hidden_size,
        ),
    )


def as_designed(llava: Llava, design: Design, where: str) -> Llava:
    """A checkpoint that goes on under a design: pictures are squared as the design says, and all else must agree.

    (Published Hugging Face forms of LLaVA-1.5 cut pictures where the original pads them.) Raises InputError naming both
    sides.
    """
    rule, config = llava.image_rule, llava.model.config
    sides = {
        "projector": (llava.projector.kind, design.projector),
        "select_layer": (config.vision_feature_layer, design.select_layer),
        "im_start_end": (llava.im_start_end, design.im_start_end),
        "image_aspect": (rule.aspect, design.image_aspect),
        # in which order decides between two that fit a picture alike: the checkpoint's goes on
        "pinpoints": (tuple(sorted(rule.pinpoints)), tuple(sorted(design.pinpoints))),
    }
    if "anyres" not in sides["image_aspect"]:
        del sides["image_aspect"]
    apart = {name: pair for name, pair in sides.items() if pair[0] != pair[1]}
    if apart:
        said = "; ".join(f"{name} is {has}, the recipe has {wants}" for name, (has, wants) in apart.items())
        raise InputError(f"{where} was made otherwise: {said}. Set what the checkpoint has.")
    if rule.aspect == design.image_aspect:
        return llava
    rule = replace(rule, aspect=design.image_aspect)
    return replace(llava, image_rule=rule, processor=processor_of(rule, llava.tokenizer, config))


def projector_kind(config: Mapping[str, Any]) -> str:
    """Upstream's word for the projector of a configuration; by its activation where the word is not there."""
    act = config.get("projector_hidden_act", "gelu")
    return str(config.get(PROJECTOR_KEY) or ("mlp2x_gelu" if act == "gelu" else "linear"))


def save(llava: Llava, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write model, processor and tokenizer; `state` is the gathered weights when the model's own are sharded.

    A model that says its conversation template gets it in transformers' form too, for `apply_chat_template`.
    """
    if hasattr(llava.model.config, TEMPLATE_KEY):
        form_ = template(template_of(llava.model.config), im_start_end=llava.im_start_end)
        # on both: the tokenizer of a chat model brings a template that this model was not trained on
        llava.processor.chat_template = llava.tokenizer.chat_template = jinja(form_)
    if state is not None:
        # gathered weights are copies: transformers does not see that a tied head is the table once more
        tied = {HEAD} if llava.model.config.tie_word_embeddings else set()
        state = {name: value for name, value in state.items() if name not in tied}
    llava.model.save_pretrained(folder, state_dict=state)
    llava.processor.save_pretrained(folder)


def template_of(config: Any) -> str:
    """The conversation template that a checkpoint was trained with; v1 when it does not say."""
    return str(getattr(config, TEMPLATE_KEY, None) or "v1")


def load_projector(llava: Llava, path: Path) -> None:
    """Put the weights of a projector file into the model, after checking that they fit.

    Raises InputError for another type, width or base, and when only one side has rows of <im_start> and <im_end>.
    """
    import torch

    file = projectors.read(path)
    projectors.check_fits(file.projector, llava.projector, str(path))
    rows = projectors.mark_rows(file, llava.im_start_end, str(path))
    module = llava.model.model.multi_modal_projector
    layers = projectors.to_transformers(file)
    module.load_state_dict({key: value.to(module.linear_1.weight.dtype) for key, value in layers.items()})
    if rows is not None:
        table = llava.model.get_input_embeddings().weight
        with torch.no_grad():
            table[llava.mark_ids] = rows.to(table)


def _tower(name: str, precision: Precision | None, design: Design, seed: int) -> Any:
    """The tower as the design has it: a ConvNeXt may get a fifth stage and another resolution."""
    kind = dtype(precision)
    tower = load_tower(name, None if isinstance(kind, str) else kind)
    if design.added_stage is not None:
        blocks, width = design.added_stage
        add_stage(tower, depth=blocks, width=width, seed=seed)
    if design.image_size_px is not None:
        set_image_size(tower, design.image_size_px)
    return tower


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
