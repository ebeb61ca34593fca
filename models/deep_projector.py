"""Projectors of three and more layers for transformers' Llava and LlavaNext, which know two only.

This file travels: it is copied into every checkpoint with such a projector and loaded from there by plain transformers
(`trust_remote_code=True`), so it imports nothing but torch and transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)
from transformers.activations import ACT2FN


class DeepProjector(nn.Module):
    """`projector_depth` linear layers with the activation between them, named as transformers names its two."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.depth = int(config.projector_depth)
        width = config.text_config.hidden_size
        for number in range(1, self.depth + 1):
            taken = config.vision_config.hidden_size if number == 1 else width
            setattr(self, f"linear_{number}", nn.Linear(taken, width, bias=config.multimodal_projector_bias))
        self.act = ACT2FN[config.projector_hidden_act]

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """Features (..., vision width) to (..., language width)."""
        hidden = image_features
        for number in range(1, self.depth + 1):
            hidden = self.get_submodule(f"linear_{number}")(self.act(hidden) if number > 1 else hidden)
        return hidden


class DeepLlavaConfig(LlavaConfig):  # type: ignore[misc]
    """A LlavaConfig that knows how deep its projector is."""

    model_type = "deep_llava"
    projector_depth: int = 3


class DeepLlavaForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """transformers' Llava with a deeper projector."""

    config_class = DeepLlavaConfig

    def __init__(self, config: DeepLlavaConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_projector = DeepProjector(config)
        self.post_init()


class DeepLlavaNextConfig(LlavaNextConfig):  # type: ignore[misc]
    """A LlavaNextConfig that knows how deep its projector is."""

    model_type = "deep_llava_next"
    projector_depth: int = 3


class DeepLlavaNextForConditionalGeneration(LlavaNextForConditionalGeneration):  # type: ignore[misc]
    """transformers' LlavaNext with a deeper projector."""

    config_class = DeepLlavaNextConfig

    def __init__(self, config: DeepLlavaNextConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_projector = DeepProjector(config)
        self.post_init()


DeepLlavaConfig.register_for_auto_class()
DeepLlavaForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
DeepLlavaNextConfig.register_for_auto_class()
DeepLlavaNextForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
