"""LLaVA-1.6's form of the model in transformers' LlavaNext: tiles joined to one map, a learned newline after each row.

transformers writes pinpoints as (height, width), upstream and `ImageRule` as (width, height). Which feature stands at
which place is decided by `images.layout`, in training and in our answers alike: transformers rounds some sizes
differently, and its own count would then not match the tokens that the model was trained on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llavaflow.infra.errors import InputError
from llavaflow.models.images import ImageRule, Size

if TYPE_CHECKING:
    import torch

MODEL_TYPE = "llava_next"
# apart from the projector's draws, which start from the same seed
NEWLINE_SEED = 1


def classes() -> tuple[Any, Any]:
    """Configuration and model."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    return LlavaNextConfig, LlavaNextForConditionalGeneration


def grid(pinpoints: tuple[Size, ...]) -> list[list[int]]:
    """Pinpoints as a configuration holds them. Raises InputError when there are none."""
    if not pinpoints:
        raise InputError("image_aspect=anyres needs pinpoints, such as those of LLaVA-1.6 (`PINPOINTS_336`).")
    return [[height, width] for width, height in pinpoints]


def fresh_newline(width: int, seed: int, dtype: torch.dtype) -> torch.nn.Parameter:
    """The newline as upstream draws it; stage 1 neither trains nor saves it, so stage 2 starts from this."""
    import torch

    generator = torch.Generator().manual_seed(seed + NEWLINE_SEED)
    return torch.nn.Parameter((torch.randn(width, generator=generator) / math.sqrt(width)).to(dtype))


def image_processor(rule: ImageRule) -> Any:
    """What plain transformers needs for the same tiles."""
    from transformers import LlavaNextImageProcessor

    return LlavaNextImageProcessor(
        size={"shortest_edge": rule.size},
        crop_size={"height": rule.size, "width": rule.size},
        image_grid_pinpoints=grid(rule.pinpoints),
        image_mean=list(rule.mean),
        image_std=list(rule.std),
    )


def pinpoints_of(image_processor: Any) -> tuple[Size, ...]:
    """Pinpoints behind a processor, as (width, height)."""
    return tuple((int(width), int(height)) for height, width in image_processor.image_grid_pinpoints)
