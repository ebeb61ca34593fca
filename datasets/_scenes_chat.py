"""ShareGPT: short text-only chats about the world's words and colours, with the dirt of real dumps.

Real dumps hold conversations that start with the assistant, have an odd number of turns, or run past every context.
"""

from __future__ import annotations

import random
from typing import Any

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets._scenes_files import WorldFiles
from llavaflow.datasets.scenes import COLOURS, SHAPES, scene

_MIXED = {
    ("blue", "yellow"): "green", ("red", "yellow"): "orange", ("blue", "red"): "purple",
}  # fmt: skip


def write_sharegpt(files: WorldFiles, *, seed: int, chats: int) -> None:
    rng = random.Random(f"sharegpt/{seed}")
    records = [chat(f"sg{seed}x{number:05d}_0", rng, dirt=number % 40) for number in range(chats)]
    files.document("sharegpt", "raw/sharegpt/sharegpt.json", records, {"": ("chat", "id")})


def chat(name: str, rng: random.Random, *, dirt: int = 0) -> dict[str, Any]:
    """One conversation of one to four exchanges. `dirt` 11, 12 and 13 make one that a reader must repair or refuse."""
    exchanges = [rng.choice(_TOPICS)(rng) for _ in range(60 if dirt == 13 else rng.randint(1, 4))]
    turns = [turn for question, answer in exchanges for turn in (("human", question), ("gpt", answer))]
    if dirt == 11:
        turns = turns[1:]
    elif dirt == 12:
        turns.append(("human", "Thanks!"))
    return {"id": name, "conversations": [{"from": role, "value": text} for role, text in turns]}


def _greeting(rng: random.Random) -> tuple[str, str]:
    pair = rng.choice((("Who are you?", "I am a small assistant."), ("Hello!", "Hello! How can I help you?")))
    return pair


def _mixing(rng: random.Random) -> tuple[str, str]:
    (one, other), result = rng.choice(sorted(_MIXED.items()))
    return f"Which colour do {one} and {other} make?", f"{one.capitalize()} and {other} make {result}."


def _corners(rng: random.Random) -> tuple[str, str]:
    shape = rng.choice(SHAPES[:5])
    return (
        f"How many corners does {say.article(shape)} have?",
        f"{say.article(shape).capitalize()} has {say.CORNERS[shape]}.",
    )


def _fruit(rng: random.Random) -> tuple[str, str]:
    colour = rng.choice(COLOURS)
    fruit = say.FRUITS[colour]
    return f"Name a fruit that is {colour}.", f"{say.article(fruit).capitalize()} is {colour}."


def _described(rng: random.Random) -> tuple[str, str]:
    """A question about a picture that is told in words: the same reading that a picture asks for later."""
    picture = scene("train", f"told/{rng.getrandbits(48)}")
    told = say.captions(picture, rng)[0]
    question = rng.choice((say.ask_colour, say.ask_shape, say.ask_count))(picture, rng)
    return f"{told} {question.text}", f"{question.answer.capitalize()}."


_TOPICS = (_greeting, _mixing, _corners, _fruit, _described, _described)
