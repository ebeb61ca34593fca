"""Scenes told in words: text-only reading practice in the formats of the mixture.

A small language model that has already learned to look up a colour, a count or a box in a description only has to
learn, once it is given pictures, to read the picture where the description stood.
"""

from __future__ import annotations

import random

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets._scenes_coco import vqa_questions
from llavaflow.datasets._scenes_sets import gqa_questions
from llavaflow.datasets._source import LETTER, SHORT_ANSWER
from llavaflow.datasets.scenes import PLACES, Scene, Thing, scene

Exchange = tuple[str, str]
_DESCRIBE = "Please provide a short description for this region: {}."
_LOCATE = "Please provide the bounding box coordinate of the region this sentence describes: {}."
_INVITATIONS = ("Describe the image concisely.", "What can be seen?", "Describe the following image.")


def told(seed: str, side: int) -> list[Exchange]:
    """One conversation about a scene whose description stands in the first question."""
    rng = random.Random(f"told/{seed}")
    picture = scene("train", f"told/{seed}", side=side)
    kind = rng.choices(_KINDS, weights=_WEIGHTS)[0]
    description, exchanges = kind(picture, rng)
    (first, answer), *rest = exchanges
    return [(f"{description}\n{first}", answer), *rest]


def _short(picture: Scene, rng: random.Random) -> tuple[str, list[Exchange]]:
    """Questions with answers of a word, the answer format named once."""
    questions = [*vqa_questions(picture, rng), *gqa_questions(picture, rng)]
    answers = {question.text: _capitalised(question.answer) for question in rng.sample(questions, len(questions))}
    (first, answer), *rest = answers.items()
    return _described(picture, rng), [(f"{first}\n{SHORT_ANSWER}", answer), *rest]


def _letters(picture: Scene, rng: random.Random) -> tuple[str, list[Exchange]]:
    question = rng.choice((say.ask_colour, say.ask_shape))(picture, rng)
    options, right = say.choices(question, rng)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    return _described(picture, rng), [(f"{question.text}\n{lines}\n{LETTER}", "ABCD"[right])]


def _regions(picture: Scene, rng: random.Random) -> tuple[str, list[Exchange]]:
    lines = "\n".join(
        f"{say.phrase(thing, place=True, word=True)}: {box_text(thing, picture)}" for thing in picture.things
    )
    exchanges = []
    for thing in picture.things:
        text, box = say.reference(picture, thing, rng), box_text(thing, picture)
        located = (_LOCATE.format(text), box)
        exchanges.append(rng.choice((located, (_DESCRIBE.format(box), f"{_capitalised(text)}."))))
    return lines, exchanges


def _sentences(picture: Scene, rng: random.Random) -> tuple[str, list[Exchange]]:
    texts = say.captions(picture, rng)
    return rng.choice(texts[:3]), [(rng.choice(_INVITATIONS), rng.choice(texts))]


_KINDS = (_short, _letters, _regions, _sentences)
_WEIGHTS = (10, 3, 3, 4)


def box_text(thing: Thing, picture: Scene) -> str:
    """A box as LLaVA writes it: 0..1 of the padded square, two decimals."""
    return "[{}, {}, {}, {}]".format(
        *(round(value, 2) for value in thing.box.in_padded_square(picture.width, picture.height))
    )


def _described(picture: Scene, rng: random.Random) -> str:
    things = sorted(picture.things, key=lambda thing: PLACES.index(thing.place))
    names = [say.article(say.phrase(thing, size=True, place=True, word=True)) for thing in things]
    text = say.enumeration(names)
    return f"{_capitalised(text)}."


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
