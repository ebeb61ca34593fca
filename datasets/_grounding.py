"""Boxes and phrases as LLaVA-1.5 asks for them: describe a region, or find the box of a description.

A box is written as the model must produce it: [x1, y1, x2, y2] as 0..1 of the padded square, two decimals. A
description gets an upper-case first letter and a full stop; a phrase inside a question stays as it is.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from llavaflow.datasets._sample import Box
from llavaflow.datasets._source import Reading, capitalise

DESCRIBE = "Please provide a short description for this region: {}."
LOCATE = "Please provide the bounding box coordinate of the region this sentence describes: {}."
PROMPT = f"either at random: {DESCRIBE.format('[x1, y1, x2, y2]')} / {LOCATE.format('<phrase>')}"

BOX_DROPS = {
    "empty-text": "a region without a phrase",
    "bad-box": "a box without area, or wholly outside the image",
    "no-image-size": "the size of the image is not known, so its boxes cannot be normalised",
}
BOX_REPAIRS = {"box-clipped": "a box that reached outside the image was cut to it"}
# annotations reach half a pixel outside by rounding: cut, but not counted
_SLACK_PX = 1.0


class Region(NamedTuple):
    """A phrase and its box in the padded square, as text."""

    phrase: str
    box: str


def box_text(box: Box, width: int, height: int) -> str:
    """The box as the model reads and writes it."""
    return "[{}, {}, {}, {}]".format(*(round(value, 2) for value in box.in_padded_square(width, height)))


def clipped(x1: float, y1: float, x2: float, y2: float, width: int, height: int, reading: Reading) -> Box | None:
    """The part of a box inside the image; None when nothing is left of it."""
    if min(x1, y1) < -_SLACK_PX or x2 > width + _SLACK_PX or y2 > height + _SLACK_PX:
        reading.repairs["box-clipped"] += 1
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
    return Box(x1=x1, y1=y1, x2=x2, y2=y2) if x2 > x1 and y2 > y1 else None


def ask(region: Region, dice: random.Random) -> tuple[str, str]:
    """One question and answer about a region, in one of the two directions."""
    if dice.random() < 0.5:
        answer = capitalise(region.phrase)
        return DESCRIBE.format(region.box), answer if answer.endswith(".") else f"{answer}."
    return LOCATE.format(region.phrase.removesuffix(".")), region.box
