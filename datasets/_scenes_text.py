"""What can truly be said about a scene: captions, region phrases, and questions with their answers.

Every text is decided by the scene and a random generator. Both spellings, color and colour, occur, as on the web.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llavaflow.datasets.scenes import COLOURS, PLACES, SHAPES, Scene, Thing

NUMBERS = ("no", "one", "two", "three", "four")
CORNERS = {"circle": "0", "triangle": "3", "square": "4", "star": "10", "cross": "12", "sign": "4"}
FRUITS = {
    "red": "cherry", "green": "lime", "blue": "blueberry", "yellow": "banana",
    "purple": "grape", "orange": "orange", "black": "olive",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about a scene. `kind`: existence, colour, shape, count, text, relation or knowledge."""

    kind: str
    text: str
    answer: str
    about: str = ""


def article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def plural(shape: str) -> str:
    return f"{shape}es" if shape == "cross" else f"{shape}s"


def phrase(thing: Thing, *, size: bool = False, place: bool = False, word: bool = False) -> str:
    """A noun phrase without article: `large red circle at the top left`, `green sign that says GO`."""
    words = f"{thing.size} {thing.name}" if size and thing.shape != "sign" else thing.name
    if word and thing.word:
        words += f" that says {thing.word}"
    return f"{words} at the {thing.place}" if place else words


def enumeration(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def captions(scene: Scene, rng: random.Random) -> list[str]:
    """Five captions, as COCO has: from every detail to a few words."""
    things = sorted(scene.things, key=lambda thing: PLACES.index(thing.place))
    full = [article(phrase(thing, size=True, place=True, word=True)) for thing in things]
    brief = [article(phrase(thing, word=True)) for thing in things]
    mixed = [article(phrase(thing, place=True)) for thing in rng.sample(things, len(things))]
    number = NUMBERS[len(things)]
    noun = "object" if len(things) == 1 else "objects"
    return [
        _sentence(enumeration(full)),
        _sentence(enumeration(brief)),
        _sentence(f"there is {enumeration(mixed)}"),
        _sentence(f"a picture of {number} {noun}: {enumeration(rng.sample(brief, len(brief)))}"),
        _sentence(_relation(rng, things)),
    ]


def brief_caption(scene: Scene, rng: random.Random, *, place: bool = False) -> str:
    """The things of a scene in any order, as an alt text says it."""
    things = rng.sample(scene.things, len(scene.things))
    return enumeration([article(phrase(thing, place=place, word=True)) for thing in things])


def reference(scene: Scene, thing: Thing, rng: random.Random) -> str:
    """An expression that fits this thing alone."""
    candidates = [phrase(thing, place=True)]
    if scene.only(shape=thing.shape, colour=thing.colour) is thing:
        candidates += [phrase(thing), phrase(thing, size=True)]
    if scene.only(shape=thing.shape) is thing:
        candidates.append(thing.shape)
    return rng.choice(candidates)


def ask_existence(scene: Scene, rng: random.Random, *, present: bool) -> Question | None:
    """POPE's question. None when every shape is there and an absent one is wanted."""
    shapes = [shape for shape in SHAPES if (scene.count(shape) > 0) == present]
    if not shapes:
        return None
    shape = rng.choice(shapes)
    text = f"Is there {article(shape)} in the image?"
    return Question(kind="existence", text=text, answer="yes" if present else "no", about=shape)


def ask_colour(scene: Scene, rng: random.Random) -> Question:
    """The colour of a thing named by its shape where that is enough, else by its place."""
    thing = rng.choice(scene.things)
    if scene.only(shape=thing.shape) is thing and rng.random() < 0.7:
        target = thing.shape
    else:
        target = rng.choice(("object", thing.shape)) + f" at the {thing.place}"
    word = rng.choice(("color", "colour"))
    text = rng.choice((f"What {word} is the {target}?", f"What is the {word} of the {target}?"))
    return Question(kind="colour", text=text, answer=thing.colour, about=thing.place)


def ask_shape(scene: Scene, rng: random.Random) -> Question:
    thing = rng.choice(scene.things)
    if scene.only(colour=thing.colour) is thing and rng.random() < 0.5:
        text = f"Which shape is {thing.colour}?"
    else:
        text = f"What is at the {thing.place}?"
    return Question(kind="shape", text=text, answer=thing.shape, about=thing.place)


def ask_count(scene: Scene, rng: random.Random, *, shape: str | None = None) -> Question:
    """How many things of a shape there are, or how many things at all when no shape is given."""
    if shape is None:
        return Question(kind="count", text="How many objects are there?", answer=str(len(scene.things)), about="object")
    text = f"How many {plural(shape)} are there?"
    return Question(kind="count", text=text, answer=str(scene.count(shape)), about=shape)


def ask_text(scene: Scene, rng: random.Random) -> Question | None:
    sign = scene.only(shape="sign")
    if sign is None:
        return None
    text = rng.choice(("What does the sign say?", "What is written on the sign?", "Which word is on the sign?"))
    return Question(kind="text", text=text, answer=sign.word, about=sign.place)


def ask_relation(scene: Scene, rng: random.Random) -> Question | None:
    """GQA's verify and choose questions on two things of different names and columns or rows."""
    if len(scene.things) < 2:
        return None
    one, other = rng.sample(scene.things, 2)
    if (
        scene.only(shape=one.shape, colour=one.colour) is None
        or scene.only(shape=other.shape, colour=other.colour) is None
    ):
        return None
    relation = _direction(one, other)
    if rng.random() < 0.5:
        claimed = relation if rng.random() < 0.5 else _OPPOSITE[relation]
        text = f"Is the {one.name} {claimed} the {other.name}?"
        return Question(kind="relation", text=text, answer="yes" if claimed == relation else "no", about=one.place)
    choices = " or ".join(sorted((relation, _OPPOSITE[relation])))
    text = f"Is the {one.name} {choices} the {other.name}?"
    return Question(kind="relation", text=text, answer=relation, about=one.place)


def ask_knowledge(scene: Scene, rng: random.Random) -> Question:
    """Questions that the picture alone does not answer, as in OK-VQA."""
    thing = rng.choice(scene.things)
    if scene.only(colour=thing.colour) is thing and rng.random() < 0.5:
        text = f"How many corners does the {thing.colour} shape have?"
        return Question(kind="knowledge", text=text, answer=CORNERS[thing.shape], about=thing.place)
    text = f"Which fruit has the color of the object at the {thing.place}?"
    return Question(kind="knowledge", text=text, answer=FRUITS[thing.colour], about=thing.place)


def choices(question: Question, rng: random.Random) -> tuple[list[str], int]:
    """Four choices of the same kind as the answer, and the place of the right one."""
    pool = {"colour": COLOURS, "shape": SHAPES, "count": ("0", "1", "2", "3", "4")}[question.kind]
    wrong = rng.sample([option for option in pool if option != question.answer], 3)
    options = rng.sample([*wrong, question.answer], 4)
    return options, options.index(question.answer)


_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def _direction(one: Thing, other: Thing) -> str:
    """Where one thing lies as seen from another, along the longer of the two distances."""
    dx, dy = one.x - other.x, one.y - other.y
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def _relation(rng: random.Random, things: Sequence[Thing]) -> str:
    if len(things) == 1:
        return f"just {article(phrase(things[0], size=True))} on a plain background"
    one, other = rng.sample(things, 2)
    return f"{article(phrase(one))} {_direction(one, other)} {article(phrase(other))}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
