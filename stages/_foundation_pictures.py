"""Scenes as pixels for the tiny models. Training draws fresh scenes without end, none of them held out.

A picture that is not square is padded to a square, as LLaVA does, or squeezed into one, as the CLIP processor saved
here does; training sees both, so that the filters and LLaVA may each use the tower in their own way.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llavaflow.datasets._sample import Box
from llavaflow.datasets._scenes_books import book
from llavaflow.datasets._scenes_draw import draw
from llavaflow.datasets.scenes import Scene, Split, scene

if TYPE_CHECKING:
    import torch
    from PIL import Image

MEAN = 0.5
STD = 0.25
_BOOK_SHARE = 0.1
_PAD_SHARE = 0.6


@dataclass(frozen=True, kw_only=True)
class Framed:
    """A scene and how it becomes a square: with grey bars, or squeezed."""

    scene: Scene
    pad: bool

    def image(self, size: int) -> Image.Image:
        from PIL import Image

        image = draw(self.scene)
        if self.pad and image.width != image.height:
            side, grey = max(image.size), round(MEAN * 255)
            canvas = Image.new("RGB", (side, side), (grey, grey, grey))
            canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = canvas
        return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC)

    def place(self, box: Box) -> tuple[float, float, float, float]:
        """A box of the scene as 0..1 of the square."""
        wide, high = self.scene.width, self.scene.height
        if self.pad:
            return box.in_padded_square(wide, high)
        return box.x1 / wide, box.y1 / high, box.x2 / wide, box.y2 / high


def framed(split: Split, name: str, count: int, side: int) -> list[Framed]:
    """A batch of scenes; a tenth of the training ones are book covers, which carry many of the words."""
    rng = random.Random(f"{split}/{name}")
    batch = []
    for number in range(count):
        cover = split == "train" and rng.random() < _BOOK_SHARE
        picture = book(f"{name}/{number}", side) if cover else scene(split, f"{name}/{number}", side=side)
        batch.append(Framed(scene=picture, pad=rng.random() < _PAD_SHARE))
    return batch


def pixels(batch: list[Framed], size: int) -> torch.Tensor:
    """Normalised pixels of a batch."""
    import numpy as np
    import torch

    stacked = torch.from_numpy(np.stack([np.asarray(item.image(size)) for item in batch])).permute(0, 3, 1, 2)
    return (stacked.float() / 255 - MEAN) / STD


def processing(size: int) -> dict[str, Any]:
    """What the saved image processors do: squeeze to the size, no crop, and this mean and deviation."""
    return {"size": {"height": size, "width": size}, "image_mean": [MEAN] * 3, "image_std": [STD] * 3}
