"""A CLIP in a worker: images and texts to unit vectors, through transformers, from a hub name or a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Vectors = NDArray[np.float32]


class Clip:
    """A CLIPModel with its processor; on the GPU where there is one."""

    def __init__(self, name: str) -> None:
        import torch
        from transformers import CLIPModel, CLIPProcessor

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = CLIPModel.from_pretrained(name).to(self.device).eval()
        self.processor: Any = CLIPProcessor.from_pretrained(name)
        self.max_length = self.model.config.text_config.max_position_embeddings

    def images(self, images: Sequence[Image]) -> Vectors:
        inputs = self.processor(images=list(images), return_tensors="pt")
        return self._unit(self.model.get_image_features, inputs)

    def texts(self, texts: Sequence[str]) -> Vectors:
        inputs = self.processor(
            text=list(texts), return_tensors="pt", padding=True, truncation=True, max_length=self.max_length
        )
        return self._unit(self.model.get_text_features, inputs)

    def _unit(self, features: Any, inputs: Any) -> Vectors:
        import torch

        with torch.inference_mode():
            found = features(**inputs.to(self.device))
        # newer transformers return an output object, older ones the tensor
        vectors: Vectors = getattr(found, "pooler_output", found).float().cpu().numpy()
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@lru_cache(maxsize=1)
def load_clip(name: str) -> Clip:
    """The CLIP of this process; two filters of one worker that ask for the same one share it."""
    return Clip(name)
