"""Boxes in replies and in gold files: reading them, moving them between frames, and their overlap.

Gold comes in two conventions, x, y, width, height and x1, y1, x2, y2, and no file says which it has. The whole file is
looked at: a box that would leave its image under one convention proves the other; without such a box the key names of
the known dumps decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llavaflow.datasets.benchmarks._files import Row

Corners = tuple[float, float, float, float]
NUMBER = r"(-?\d+(?:\.\d+)?)"
FOUR = re.compile(rf"\[\s*{NUMBER},\s*{NUMBER},\s*{NUMBER},\s*{NUMBER}\s*\]")
EDGE_PX = 2.0
# dumps whose boxes are known to be corners: Visual-CoT, LLaVA-style lines
CORNER_KEYS = ("expression", "sent", "phrase")


def read_box(text: str) -> Corners | None:
    """The first bracket with exactly four numbers, or None."""
    found = FOUR.search(text)
    if found is None:
        return None
    x1, y1, x2, y2 = (float(number) for number in found.groups())
    return x1, y1, x2, y2


def are_corners(rows: Sequence[Row]) -> bool:
    """Whether the boxes of a gold file are corners rather than a corner with width and height."""
    sized = [(row["bbox"], _side(row, "width"), _side(row, "height")) for row in rows]
    if any(box[2] < box[0] or box[3] < box[1] for box, _, _ in sized):
        return False
    if any(box[0] + box[2] > width + EDGE_PX or box[1] + box[3] > height + EDGE_PX for box, width, height in sized):
        return True
    return any(key in rows[0] for key in CORNER_KEYS) if rows else True


def corners(box: Sequence[float], as_corners: bool) -> Corners:
    """A gold box as corners."""
    x, y, third, fourth = (float(value) for value in box)
    return (x, y, third, fourth) if as_corners else (x, y, x + third, y + fourth)


def unpad(box: Corners, width: float, height: float) -> Corners:
    """A box in 0..1 of the image centred on its square, as 0..1 of the image's own sides."""
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    x1, y1, x2, y2 = (value * side for value in box)
    return (x1 - left) / width, (y1 - top) / height, (x2 - left) / width, (y2 - top) / height


def overlap(gold: Corners, box: Corners) -> float:
    """Intersection over union; a box without area overlaps nothing."""
    wide = max(0.0, min(gold[2], box[2]) - max(gold[0], box[0]))
    high = max(0.0, min(gold[3], box[3]) - max(gold[1], box[1]))
    both = wide * high
    union = _area(gold) + _area(box) - both
    return both / union if union > 0 else 0.0


def _area(box: Corners) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _side(row: Row, name: str) -> float:
    return float(row.get(name) or row.get(f"image_{name}") or float("inf"))
