"""Pictures drawn in words: text-only reading practice in the formats of the mixture.

A picture in words is a grid of cells, in the order in which a vision tower gives its patches; each cell names what
covers it ("red star", "blue sign GO", background, border). A small language model that has learned to find a colour, a
count or a box among such cells only has to learn, once it is given pictures, what patches look like.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets._scenes_books import book, book_questions
from llavaflow.datasets._scenes_coco import vqa_questions
from llavaflow.datasets._scenes_sets import gqa_questions
from llavaflow.datasets._source import LETTER, SHORT_ANSWER
from llavaflow.datasets.scenes import Scene, Thing, scene

Exchange = tuple[str, str]
BACKGROUND, BORDER = "background", "border"
_DESCRIBE = "Please provide a short description for this region: {}."
_LOCATE = "Please provide the bounding box coordinate of the region this sentence describes: {}."
# a cell names the thing that covers at least this much of it, or has this much of itself in it
_LEAST_COVER = 0.4


class Told(NamedTuple):
    """A scene with a conversation about it, or with a caption alone."""

    picture: Scene
    exchanges: list[Exchange]
    caption: str = ""


def told(seed: str, side: int) -> Told:
    """The practice of a seed: captions, questions with answers of a word, letters, regions, books."""
    rng = random.Random(f"told/{seed}")
    kind = rng.choices(("caption", "short", "letters", "regions", "book"), weights=(2, 15, 2, 2, 2))[0]
    if kind == "book":
        cover = book(f"told/{seed}", side)
        return Told(cover, _short_answers(book_questions(cover, rng)))
    picture = scene("train", f"told/{seed}", side=side)
    if kind == "caption":
        return Told(picture, [], rng.choice(say.captions(picture, rng)))
    if kind == "letters":
        return Told(picture, [_letters(picture, rng)])
    if kind == "regions":
        return Told(picture, _regions(picture, rng))
    questions = [*vqa_questions(picture, rng), *gqa_questions(picture, rng)]
    distinct = {question.text: question.answer for question in rng.sample(questions, len(questions))}
    return Told(picture, _short_answers(list(distinct.items())))


def cells(picture: Scene, grid: int) -> list[str]:
    """The picture, padded to a square, as grid x grid names, row by row."""
    side = max(picture.width, picture.height)
    left, top, cell = (side - picture.width) // 2, (side - picture.height) // 2, side / grid
    return [
        _cell(picture, column * cell - left, row * cell - top, cell) for row in range(grid) for column in range(grid)
    ]


def _cell(picture: Scene, x: float, y: float, cell: float) -> str:
    """What covers most of one cell; its corner is in pixels of the picture."""
    middle_x, middle_y = x + cell / 2, y + cell / 2
    inside = 0 <= middle_x <= picture.width and 0 <= middle_y <= picture.height
    best, most = BACKGROUND if inside else BORDER, _LEAST_COVER
    for thing in picture.things:
        box = thing.box
        wide, high = min(box.x2, x + cell) - max(box.x1, x), min(box.y2, y + cell) - max(box.y1, y)
        cover = max(wide, 0) * max(high, 0) / min(cell * cell, (box.x2 - box.x1) * (box.y2 - box.y1))
        if cover > most:
            best, most = f"{thing.name} {thing.word}".strip(), cover
    return best


def _short_answers(asked: list[Exchange] | list[tuple[str, str]]) -> list[Exchange]:
    """The answer format is named once, behind the first question."""
    (first, answer), *rest = [(question, _capitalised(answer)) for question, answer in asked]
    return [(f"{first}\n{SHORT_ANSWER}", answer), *rest]


def _letters(picture: Scene, rng: random.Random) -> Exchange:
    question = rng.choice((say.ask_colour, say.ask_shape))(picture, rng)
    options, right = say.choices(question, rng)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    return f"{question.text}\n{lines}\n{LETTER}", "ABCD"[right]


def _regions(picture: Scene, rng: random.Random) -> list[Exchange]:
    exchanges = []
    for thing in picture.things:
        text, box = say.reference(picture, thing, rng), box_text(thing, picture)
        exchanges.append(
            (_LOCATE.format(text), box) if rng.random() < 0.6 else (_DESCRIBE.format(box), f"{_capitalised(text)}.")
        )
    return exchanges


def box_text(thing: Thing, picture: Scene) -> str:
    """A box as LLaVA writes it: 0..1 of the padded square, two decimals."""
    return "[{}, {}, {}, {}]".format(
        *(round(value, 2) for value in thing.box.in_padded_square(picture.width, picture.height))
    )


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
