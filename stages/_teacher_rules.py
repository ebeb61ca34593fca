"""What the rule-based teacher answers: dialogues, descriptions and reasoning from captions and boxes alone.

It reads the captions for noun phrases, colours, places, counts and written words, and the boxes for counts, places,
sizes and order, and says nothing that does not follow from them. It is not a language model and does not look like
one; it exists so that the tiny recipe runs without a paid service, and it works the same on a context of real COCO.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from llavaflow.stages.filters._phrases import rule_phrases

COLOURS = "red green blue yellow purple orange black white brown gray grey pink".split()
NUMBERS = "no one two three four five six seven eight nine ten".split()
PLACES = "top left|top right|bottom left|bottom right|top|bottom|left|right|center"
MAX_LISTED = 8
CLEARLY_APART = 0.1
_BOX = re.compile(r"^(.+): \[([\d.]+), ([\d.]+), ([\d.]+), ([\d.]+)\]$")
_COUNT = re.compile(rf"\b({'|'.join(NUMBERS[1:])}) ((?:[a-z]+ )?[a-z]+)\b", re.IGNORECASE)
_PLACE = re.compile(
    rf"\b((?:{'|'.join(COLOURS)}) [a-z]+)(?: that says \S+)? (?:at|in|on) the ({PLACES})\b", re.IGNORECASE
)
_SAYS = re.compile(r"\b((?:[a-z]+ )?[a-z]+) that (?:says|reads) \"?(\w+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One box: what it holds and where it is, in 0..1 of the image."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    @property
    def area(self) -> float:
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    @property
    def place(self) -> str:
        """The third of the picture in which the centre lies."""
        x, y = self.centre
        row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
        column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
        return f"{row} {column}".strip() or "center"


@dataclass(kw_only=True)
class Known:
    """What a context says."""

    captions: list[str] = field(default_factory=list)
    boxes: list[Placed] = field(default_factory=list)

    @property
    def longest(self) -> str:
        text = max(self.captions, key=len, default="")
        return f"{text[:1].upper()}{text[1:].rstrip('. ')}." if text else ""

    def colours(self) -> dict[str, str]:
        """The colour of every thing that has one and only one."""
        found: dict[str, set[str]] = {}
        phrases = [phrase.split() for found_in in rule_phrases(self.captions) for phrase in found_in]
        for words in phrases:
            at = next((place for place, word in enumerate(words) if word in COLOURS), None)
            if at is not None and (thing := _named(words[at + 1 :], phrases)):
                found.setdefault(thing, set()).add(words[at])
        return {thing: next(iter(names)) for thing, names in found.items() if len(names) == 1}

    def places(self) -> dict[str, str]:
        """Where the captions put a coloured thing; nothing for one that is in several places."""
        found: dict[str, set[str]] = {}
        for caption in self.captions:
            for thing, place in _PLACE.findall(caption):
                found.setdefault(thing.lower(), set()).add(place.lower())
        return {thing: next(iter(where)) for thing, where in found.items() if len(where) == 1}

    def counts(self) -> dict[str, str]:
        """What the captions count in words, when they agree."""
        found: dict[str, set[str]] = {}
        for caption in self.captions:
            for number, thing in _COUNT.findall(caption):
                words = thing.lower().split()
                noun = next((word for word in words if word.endswith("s") or word == "object"), None)
                if noun is not None and words[0] not in ("of", "is", "in", "on"):
                    found.setdefault(noun, set()).add(number.lower())
        return {noun: next(iter(names)) for noun, names in found.items() if len(names) == 1}

    def words(self) -> dict[str, str]:
        """What is written on things."""
        found: dict[str, set[str]] = {}
        for caption in self.captions:
            for thing, word in _SAYS.findall(caption):
                found.setdefault(thing.lower().removeprefix("a ").removeprefix("the "), set()).add(word)
        return {thing: next(iter(said)) for thing, said in found.items() if len(said) == 1}

    def name(self, box: Placed) -> str:
        """What to call a box: by its colour where the captions leave no doubt, by its place where it is not alone."""
        alone = sum(other.label == box.label for other in self.boxes) == 1
        colour = self.colours().get(box.label) if alone else None
        return f"{colour} {box.label}" if colour else box.label if alone else f"{box.label} at the {box.place}"


def read_context(text: str) -> Known:
    """Captions, one per line; then, after a blank line, one `label: [x1, y1, x2, y2]` per line."""
    known = Known()
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if match := _BOX.match(line):
            x1, y1, x2, y2 = map(float, match.groups()[1:])
            known.boxes.append(Placed(label=match[1], x1=x1, y1=y1, x2=x2, y2=y2))
        else:
            known.captions.append(line)
    return known


def answer(system: str, context: str) -> str:
    """The teacher's answer to a request; the task is what the system message asks for."""
    known, dice = read_context(context), random.Random(context)
    if "conversation between" in system:
        return _blocks(dialogue(known, dice))
    if "plausible question" in system:
        return _blocks([reasoning(known, dice)])
    return description(known)


def dialogue(known: Known, dice: random.Random) -> list[tuple[str, str]]:
    """What can be asked and answered from captions: an overview, then facts in random order."""
    facts: list[tuple[str, str]] = []
    for thing, colour in known.colours().items():
        facts.append((f"What color is the {thing}?", f"The {thing} is {colour}."))
    for thing, place in known.places().items():
        facts.append((f"Where is the {thing}?", f"The {thing} is at the {place}."))
    for noun, number in known.counts().items():
        verb = "is" if number == "one" else "are"
        facts.append((f"How many {_plural(noun)} are there?", f"There {verb} {number} {noun}."))
    for thing, word in known.words().items():
        facts.append((f"What does the {thing} say?", f"The {thing} says {word}."))
    dice.shuffle(facts)
    return [("What can you see in the image?", known.longest), *facts[: dice.randint(3, 5)]]


def description(known: Known) -> str:
    """The longest caption, then what the boxes add: how many there are, where each is, and how two of them lie."""
    sentences = [known.longest]
    if known.boxes:
        sentences.append(f"In all, there {_counted(known.boxes)}.")
    for box in sorted(known.boxes, key=lambda box: (-box.area, box.centre))[:MAX_LISTED]:
        sentences.append(f"The {known.name(box)} is at the {box.place}." if _alone(known, box) else _one_of(box))
    ordered = sorted(known.boxes, key=lambda box: box.centre)
    if ordered and ordered[-1].centre[0] - ordered[0].centre[0] > CLEARLY_APART:
        first, second = ordered[0], ordered[-1]
        sentences.append(f"The {known.name(first)} is to the left of the {known.name(second)}.")
    return " ".join(dict.fromkeys(filter(None, sentences)))


def reasoning(known: Known, dice: random.Random) -> tuple[str, str]:
    """A question that tells nothing of the picture, and an answer that follows from its boxes or captions."""
    if len(known.boxes) < 2:
        topic = Counter(phrase for phrases in rule_phrases(known.captions) for phrase in phrases).most_common(1)
        thing = topic[0][0] if topic else "scene"
        return "What is the main subject of this picture?", f"The main subject is the {thing}. {known.longest}"
    by_area = sorted(known.boxes, key=lambda box: -box.area)
    by_x = sorted(known.boxes, key=lambda box: box.centre)
    by_y = sorted(known.boxes, key=lambda box: box.centre[1])
    return dice.choice(
        (
            (
                "What draws the eye first in this picture, and why?",
                f"The {known.name(by_area[0])} draws the eye first, because it takes up the most space, about "
                f"{max(1, round(100 * by_area[0].area))} percent of the picture. "
                f"The {known.name(by_area[-1])} is the smallest thing and is noticed later.",
            ),
            (
                "If someone crossed this scene from left to right, what would they meet first and last?",
                f"They would meet the {known.name(by_x[0])} first, because nothing lies further to the left. "
                f"They would meet the {known.name(by_x[-1])} last, because it is the furthest to the right.",
            ),
            (
                "If something fell straight down from the highest thing here, how far apart are top and bottom?",
                f"The {known.name(by_y[0])} is the highest and the {known.name(by_y[-1])} is the lowest. They are "
                f"about {round(100 * (by_y[-1].centre[1] - by_y[0].centre[1]))} percent of the height apart.",
            ),
        )
    )


def _named(words: list[str], phrases: Sequence[list[str]]) -> str:
    """The thing at the start of some words: `cat` of `cat sleeps` where other phrases speak of a cat; "" in doubt."""
    for length in range(1, len(words) + 1):
        head = words[:length]
        if sum(phrase[-length:] == head for phrase in phrases) > (length == len(words)) or len(words) == 1:
            return " ".join(head)
    return ""


def _alone(known: Known, box: Placed) -> bool:
    return sum(other.label == box.label for other in known.boxes) == 1


def _one_of(box: Placed) -> str:
    return f"One {box.label} is at the {box.place}."


def _counted(boxes: Sequence[Placed]) -> str:
    """`is one cross and two signs`: the verb goes with the first count."""
    counts = Counter(box.label for box in boxes)
    items = [f"{_number(count)} {label if count == 1 else _plural(label)}" for label, count in counts.items()]
    verb = "is" if next(iter(counts.values())) == 1 else "are"
    return f"{verb} {items[0]}" if len(items) == 1 else f"{verb} {', '.join(items[:-1])} and {items[-1]}"


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _plural(noun: str) -> str:
    if noun == "person":
        return "people"
    if noun.endswith("s") and not noun.endswith("ss"):
        return noun
    return f"{noun}es" if noun.endswith(("ss", "x", "ch", "sh")) else f"{noun}s"


def _blocks(turns: Sequence[tuple[str, str]]) -> str:
    """The answer format of LLaVA-Instruct's prompts."""
    return "\n===\n".join(f"Question:\n{question}\n===\nAnswer:\n{reply}" for question, reply in turns)
