"""Scenes: the generated world of the tiny recipe. A scene is a plain value; its picture and every text about it follow.

One to four things (a shape or a sign with a short word) stand in the cells of a 3 x 3 grid, each with a colour and a
size, in front of a plain background; neighbours may overlap. A scene is decided by its split and seed alone.

Held out: of the seven colours, exactly one is never shown in training for a given shape and place, and test scenes
show nothing but those. So test scenes share no seed and no (shape, colour, place) combination with training, while
each single shape, colour and place is seen equally often: what is tested is putting known parts together.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from llavaflow.datasets._sample import Box

Split = Literal["train", "test"]

SHAPES = ("circle", "square", "triangle", "star", "cross", "sign")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black")
PLACES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
WORDS = ("GO", "NO", "UP", "OK", "HI", "BY", "ME", "WE", "A1", "B2", "C3", "D4", "X5", "K7", "Z9", "T8")

# COCO-like category ids: with gaps, as in the real file
CATEGORY_IDS = {"circle": 1, "square": 2, "triangle": 4, "star": 7, "cross": 8, "sign": 13}

# how often a scene has one, two, three or four things
_COUNT_WEIGHTS = (20, 30, 28, 22)
# how much of a thing's box another may cover
_MAX_COVERED = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One object of a scene; lengths are pixels of the picture. `half_width` and `half_height` span its box."""

    shape: str
    colour: str
    place: str
    size: str
    x: float
    y: float
    half_width: float
    half_height: float
    tone: int = 0
    word: str = ""

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def box(self) -> Box:
        x1, y1 = self.x - self.half_width, self.y - self.half_height
        return Box(x1=x1, y1=y1, x2=self.x + self.half_width, y2=self.y + self.half_height, label=self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A picture to be drawn: `things` are ordered from the back to the front."""

    split: Split
    seed: str
    width: int
    height: int
    background: int
    things: tuple[Thing, ...]

    def only(self, *, shape: str | None = None, colour: str | None = None) -> Thing | None:
        """The thing with this shape and colour if it is the only one, else None."""
        found = [thing for thing in self.things if shape in (None, thing.shape) and colour in (None, thing.colour)]
        return found[0] if len(found) == 1 else None

    def at(self, place: str) -> Thing | None:
        return next((thing for thing in self.things if thing.place == place), None)

    def count(self, shape: str) -> int:
        return sum(thing.shape == shape for thing in self.things)


def is_held_out(shape: str, colour: str, place: str) -> bool:
    """Whether a combination belongs to the test split: one colour of seven for each shape and place."""
    return (2 * SHAPES.index(shape) + COLOURS.index(colour) + 3 * PLACES.index(place)) % len(COLOURS) == 0


def palette(shape: str, place: str, split: Split) -> list[str]:
    """The colours that a shape may have at a place in a split."""
    return [colour for colour in COLOURS if is_held_out(shape, colour, place) == (split == "test")]


def scene(split: Split, seed: str, *, side: int = 72, things: int | None = None, sign: float = 0.35) -> Scene:
    """The scene of a seed. A quarter are 4:3 or 3:4. `side` is the shorter side; `sign` the chance of a sign."""
    rng = random.Random(f"{split}/{seed}")
    long = side * 4 // 3
    width, height = rng.choices([(side, side), (long, side), (side, long)], weights=[6, 1, 1])[0]
    count = things or rng.choices(range(1, 5), weights=_COUNT_WEIGHTS)[0]
    shapes = _shapes(rng, count, sign)
    while True:
        placed = _place(rng, split, shapes, width, height)
        if _all_visible(placed):
            background = rng.choice((238, 208, 178)) + rng.randint(-6, 6)
            return Scene(
                split=split, seed=seed, width=width, height=height, background=background, things=tuple(placed)
            )


def _shapes(rng: random.Random, count: int, sign: float) -> list[str]:
    """Often one shape twice or more, so that counting is a question worth asking; one sign at most."""
    plain = [shape for shape in SHAPES if shape != "sign"]
    main = rng.choice(plain)
    shapes = [main if rng.random() < 0.45 else rng.choice(plain) for _ in range(count)]
    if rng.random() < sign:
        shapes[rng.randrange(count)] = "sign"
    return shapes


def _place(rng: random.Random, split: Split, shapes: list[str], width: int, height: int) -> list[Thing]:
    unit = min(width, height) / 72
    places = rng.sample(PLACES, len(shapes))
    things = []
    for shape, place in zip(shapes, places, strict=True):
        size = rng.choice(("small", "large"))
        radius = rng.uniform(7.5, 9) * unit if size == "small" else rng.uniform(11.5, 13.5) * unit
        half_width, half_height = (14.5 * unit, 8.5 * unit) if shape == "sign" else (radius, radius)
        row, column = divmod(PLACES.index(place), 3)
        x = (column + 0.5) * width / 3 + rng.uniform(-3, 3) * unit
        y = (row + 0.5) * height / 3 + rng.uniform(-3, 3) * unit
        things.append(
            Thing(
                shape=shape,
                colour=rng.choice(palette(shape, place, split)),
                place=place,
                size="large" if shape == "sign" else size,
                x=round(min(max(x, half_width), width - half_width), 1),
                y=round(min(max(y, half_height), height - half_height), 1),
                half_width=round(half_width, 1),
                half_height=round(half_height, 1),
                tone=rng.randint(-14, 14),
                word=rng.choice(WORDS) if shape == "sign" else "",
            )
        )
    return things


def _all_visible(things: list[Thing]) -> bool:
    """No thing hides more than a part of another; a sign is covered by nothing, so that its word can be read."""
    for back, thing in enumerate(things):
        for front in things[back + 1 :]:
            limit = 0.0 if thing.shape == "sign" else _MAX_COVERED
            if covered(thing, front) > limit:
                return False
    return True


def covered(thing: Thing, front: Thing) -> float:
    """The share of a thing's box that lies behind the box of another."""
    a, b = thing.box, front.box
    wide = min(a.x2, b.x2) - max(a.x1, b.x1)
    high = min(a.y2, b.y2) - max(a.y1, b.y1)
    return max(wide, 0.0) * max(high, 0.0) / ((a.x2 - a.x1) * (a.y2 - a.y1))
