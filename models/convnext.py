"""ConvLLaVA's tower for transformers' Llava: a ConvNeXt of any number of stages whose map is read as tokens.

This file travels: it is copied into every checkpoint with such a tower and loaded from there by plain transformers
(`trust_remote_code=True`), so it imports nothing but torch and transformers.

ConvLLaVA adds a fifth stage (stride 2) to a ConvNeXt: 64 pixels per token instead of 32. transformers' ConvNextModel
builds five stages from a configuration of five; what Llava lacks is only that a feature map (batch, width, height,
columns) becomes a row of tokens (batch, tokens, width), row by row, without class token.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    ConvNextConfig,
    ConvNextModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention

STEM_STRIDE = 4


class ConvNextTowerConfig(ConvNextConfig):  # type: ignore[misc]
    """A ConvNextConfig that also answers what Llava asks a tower: its width."""

    model_type = "convnext_tower"

    @property
    def hidden_size(self) -> int:
        return int(self.hidden_sizes[-1])

    @property
    def stride(self) -> int:
        """Pixels per token along one side."""
        return STEM_STRIDE << (len(self.depths) - 1)


class ConvNextTower(ConvNextModel):  # type: ignore[misc]
    """Images in, tokens out; the last norm (for pooling) is kept in the weights and not used, as in ConvLLaVA."""

    config_class = ConvNextTowerConfig

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPoolingAndNoAttention:
        features = self.embeddings(pixel_values)
        maps = [features]
        for stage in self.encoder.stages:
            features = stage(features)
            maps.append(features)
        tokens = tuple(one.flatten(2).transpose(1, 2) for one in maps)
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=tokens[-1], hidden_states=tokens)


AutoConfig.register("convnext_tower", ConvNextTowerConfig, exist_ok=True)
AutoModel.register(ConvNextTowerConfig, ConvNextTower, exist_ok=True)


class ConvLlavaConfig(LlavaConfig):  # type: ignore[misc]
    """A LlavaConfig that is read with this file, which makes the tower known first."""

    model_type = "convllava"


class ConvLlavaForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """transformers' Llava with a ConvNeXt in front."""

    config_class = ConvLlavaConfig


ConvNextTowerConfig.register_for_auto_class()
ConvNextTower.register_for_auto_class("AutoModel")
ConvLlavaConfig.register_for_auto_class()
ConvLlavaForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
