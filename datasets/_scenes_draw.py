"""Draws a scene with Pillow: shapes at several times the size, reduced once, so that edges are smooth and exact."""

from __future__ import annotations

import io
import math
from functools import cache
from typing import TYPE_CHECKING

from llavaflow.datasets.scenes import Scene, Thing

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

_SCALE = 3
_RGB = {
    "red": (214, 40, 40),
    "green": (40, 160, 70),
    "blue": (45, 85, 215),
    "yellow": (240, 215, 40),
    "purple": (135, 50, 170),
    "orange": (240, 130, 25),
    "black": (30, 30, 30),
}
_LIGHT = {"yellow", "orange"}


def draw(scene: Scene) -> Image.Image:
    """The RGB picture of a scene."""
    from PIL import Image, ImageDraw

    grey = scene.background
    image = Image.new("RGB", (scene.width * _SCALE, scene.height * _SCALE), (grey, grey, min(grey + 6, 255)))
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_thing(pen, thing)
    return image.reduce(_SCALE)


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def rgb(colour: str, tone: int = 0) -> tuple[int, int, int]:
    """The paint of a colour name, a little lighter or darker by `tone`."""
    red, green, blue = (min(max(value + tone, 0), 255) for value in _RGB[colour])
    return red, green, blue


def ink(colour: str) -> tuple[int, int, int]:
    """The colour in which a word on a plate of this colour can be read."""
    return (20, 20, 20) if colour in _LIGHT else (250, 250, 250)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    fill = rgb(thing.colour, thing.tone)
    x, y = thing.x * _SCALE, thing.y * _SCALE
    wide, high = thing.half_width * _SCALE, thing.half_height * _SCALE
    box = (x - wide, y - high, x + wide, y + high)
    if thing.shape == "circle":
        pen.ellipse(box, fill=fill)
    elif thing.shape in ("square", "sign"):
        pen.rectangle(box, fill=fill)
    else:
        pen.polygon([(x + dx * wide, y + dy * high) for dx, dy in _outline(thing.shape)], fill=fill)
    if thing.word:
        pen.text((x, y), thing.word, fill=ink(thing.colour), font=font(round(high * 1.75)), anchor="mm")


@cache
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    """The corners of a shape in a box from -1 to 1."""
    if shape == "triangle":
        return (0, -1), (1, 1), (-1, 1)
    if shape == "cross":
        arm = 0.36
        return (
            (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
            (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
        )  # fmt: skip
    points = []
    for corner in range(10):
        radius = 1.0 if corner % 2 == 0 else 0.45
        angle = math.pi * corner / 5
        points.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return _stretched(points)


def _stretched(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """A star's points reach less far to the sides than up: stretch it until it fills its box."""
    columns, rows = [x for x, _ in points], [y for _, y in points]

    def fit(value: float, values: list[float]) -> float:
        return 2 * (value - min(values)) / (max(values) - min(values)) - 1

    return tuple((fit(x, columns), fit(y, rows)) for x, y in points)
