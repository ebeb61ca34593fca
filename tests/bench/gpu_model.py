"""The model of `gpu.py`: a published shape with random weights, what of it one GPU can train, and what that takes.

Needs torch, transformers and this repository's `models/`; neither Ray nor DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llavaflow.models.sizes import LANGUAGE, VISION, LanguageSize, VisionSize

IMAGE_ID = 1
GIB = 2**30
# of the memory that the driver reports; the rest goes to CUDA itself and to fragmentation
USABLE = 0.9
# bytes per token that the forward pass of one checkpointed layer holds, in units of the hidden width
LAYER_BYTES = 60


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A LLaVA: its language model and its tower, images of one tile."""

    name: str
    language: LanguageSize
    vision: VisionSize

    @property
    def image_tokens(self) -> int:
        return self.vision.tokens


def _tower(name: str) -> VisionSize:
    tower = VISION[name]
    assert isinstance(tower, VisionSize)
    return tower


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(name="llava-1.5-7b", language=LANGUAGE["vicuna-7b"], vision=_tower("clip-l-336")),
        Shape(name="llava-1.5-13b", language=LANGUAGE["vicuna-13b"], vision=_tower("clip-l-336")),
        Shape(
            name="tiny",
            language=LanguageSize(
                name="tiny", hub="", family="vicuna", layers=2, hidden=32, intermediate=64, heads=2, kv_heads=2,
                vocab=256, context=4096,
            ),
            vision=VisionSize(
                name="tiny", hub="", layers=2, hidden=16, intermediate=32, heads=2, image=28, patch=14
            ),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Regime:
    """What trains beside the projector: the upper `layers` of the language model, by an optimizer of so many bytes."""

    name: str
    layers: float
    state_bytes: int
    master: bool


REGIMES = (
    Regime(name="full finetune, AdamW on float32 master weights", layers=1.0, state_bytes=12, master=True),
    Regime(name="full finetune, AdamW with bf16 states", layers=1.0, state_bytes=4, master=False),
    Regime(name="the upper half of the layers, AdamW with bf16 states", layers=0.5, state_bytes=4, master=False),
    Regime(name="the projector alone", layers=0.0, state_bytes=12, master=True),
)


def memory_needed(shape: Shape, regime: Regime, row_tokens: int) -> float:
    """GiB at the peak, by a rule of thumb that need only be right enough to choose."""
    language = shape.language
    trains = language.params * regime.layers
    states = 2 * (language.params + shape.vision.params) + trains * (2 + regime.state_bytes)
    rows = row_tokens * language.hidden * (2 * language.layers + LAYER_BYTES)
    return (states + rows + min(row_tokens, 8192) * language.vocab * 12) / GIB


def candidates(shape: Shape, memory_gib: float, row_tokens: Sequence[int]) -> Iterator[tuple[Regime, int]]:
    """What should fit, best first: all of the training that does, with the longest rows that do."""
    for regime in REGIMES:
        for tokens in sorted(row_tokens, reverse=True):
            if memory_needed(shape, regime, tokens) <= USABLE * memory_gib:
                yield regime, tokens


def random_model(shape: Shape, regime: Regime, device: str, dtype: torch.dtype) -> Any:
    """transformers' own LLaVA with random weights, in training mode, checkpointed, frozen where the regime says so."""
    language, vision = shape.language, shape.vision
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision.hidden,
            intermediate_size=vision.intermediate,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            image_size=vision.image,
            patch_size=vision.patch,
        ),
        text_config=LlamaConfig(
            hidden_size=language.hidden,
            intermediate_size=language.intermediate,
            num_hidden_layers=language.layers,
            num_attention_heads=language.heads,
            num_key_value_heads=language.kv_heads,
            vocab_size=language.vocab,
            max_position_embeddings=language.context,
        ),
        image_token_index=IMAGE_ID,
        image_seq_length=vision.tokens,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    _freeze(model, regime)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def _freeze(model: Any, regime: Regime) -> None:
    layers = model.model.language_model.layers
    frozen = [model.model.vision_tower]
    if regime.layers < 1:
        frozen += [model.model.language_model.embed_tokens, *layers[: len(layers) - int(len(layers) * regime.layers)]]
    if regime.layers == 0:
        frozen.append(model.lm_head)
        frozen.append(model.model.language_model.norm)
    for module in frozen:
        module.requires_grad_(False)


class Optimizer:
    """AdamW that steps one tensor at a time, so that float32 copies of gradients never stand all at once."""

    def __init__(self, model: Any, master: bool) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._masters = [one.detach().float() if master else one for one in self._parameters]
        fused = self._parameters[0].is_cuda
        self._steppers = [torch.optim.AdamW([one], lr=2e-5, weight_decay=0.0, fused=fused) for one in self._masters]

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0, foreach=True)
        for parameter, master, stepper in self._triples():
            if master is not parameter and parameter.grad is not None:
                master.grad, parameter.grad = parameter.grad.float(), None
            stepper.step()
            stepper.zero_grad(set_to_none=True)
            if master is not parameter:
                parameter.data.copy_(master)

    def _triples(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.optim.AdamW]]:
        return zip(self._parameters, self._masters, self._steppers, strict=True)


def flops(shape: Shape, regime: Regime, lengths: Sequence[int], images: int, learned: int) -> float:
    """Useful floating point operations of one step on these samples: no padding, nothing computed twice.

    Forward once, back to the inputs once, back to the weights where they train; the frozen tower goes forward alone,
    the head works on supervised tokens alone.
    """
    language, vision = shape.language, shape.vision
    passes = 2 + regime.layers
    tokens = sum(lengths)
    attention = sum(2 * length * length * language.hidden for length in lengths)
    body = language.layers * (2 * language.layer_matrices * tokens * passes + attention * 3)
    head = 2 * language.hidden * language.vocab * learned * passes
    patches = vision.tokens + 1
    per_image = (vision.layers - 1) * (2 * vision.layer_matrices * patches + 4 * patches * patches * vision.hidden)
    projector = vision.hidden * language.hidden + language.hidden**2
    return body + head + images * (per_image + 6 * projector * vision.tokens)
