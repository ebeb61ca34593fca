"""ConvLLaVA at 1536 pixels, 576 tokens per image: three steps from a ConvNeXt and Vicuna-7B."""

from __future__ import annotations

from llavaflow.pipelines._conv_llava import conv_llava

RECIPE = conv_llava(1536, 576)
