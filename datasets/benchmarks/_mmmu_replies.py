"""How MMMU reads a reply: the letter of a choice, or the key phrases and numbers of an open answer.

Facts kept on purpose (MMMU `utils/eval_utils.py`): edge marks are stripped one kind after the other; sentences are
split only at line ends, because the text is lower-cased before the split looks for a capital; a gold of one letter
must stand beside a space; of several options the one mentioned last counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

EDGE_MARKS = (",", ".", "!", "?", ";", ":", "'")
TRIVIAL = {":", ",", ".", "!", "?", ";", "'"}
LONG_WORDS = 5
KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
Part = str | float


def read_choice(reply: str, choices: Mapping[str, str]) -> str | None:
    """The letter that a reply names, or None where upstream guesses."""
    for mark in EDGE_MARKS:
        reply = reply.strip(mark)
    text = f" {reply} "
    for dress in ("({})", " {} "):
        places = {letter: text.rfind(dress.format(letter)) for letter in choices}
        if found := {letter: place for letter, place in places.items() if place >= 0}:
            return _last(found)
    if len(text.split()) <= LONG_WORDS:
        return None
    low = text.lower()
    found = {
        letter: low.rfind(option.lower()) for letter, option in choices.items() if option and option.lower() in low
    }
    return _last(found) if found else None


def _last(places: Mapping[str, int]) -> str:
    """The letter of the last place; of equal places the first letter."""
    return max(places, key=lambda letter: places[letter])


def open_matches(reply: str, gold: str | list[str]) -> bool:
    """Whether a gold answer is contained in a key phrase of the reply, or equals one of its numbers."""
    golds = [part for answer in (gold if isinstance(gold, list) else [gold]) for part in _normal(str(answer))]
    for part in _parts(reply):
        if isinstance(part, str):
            if any(isinstance(answer, str) and answer in part for answer in golds):
                return True
        elif part in golds:
            return True
    return False


def _parts(reply: str) -> Iterator[Part]:
    phrases = _key_phrases(reply)
    numbers = [number for phrase in phrases for pattern in NUMBERS for number in pattern.findall(phrase)]
    for text in (*phrases, *numbers):
        yield from _normal(text)


def _key_phrases(reply: str) -> list[str]:
    """What follows the last key word of every line; an equals sign is a key in the last line only."""
    text = reply.strip().strip(".").lower()
    lines = text.split("\n")
    found = []
    for number, line in enumerate(lines, start=1):
        keys = KEYS + (("=",) if number == len(lines) else ())
        tails = [line.split(key)[-1].strip() for key in keys if key in line]
        shortest = _shortest(tails)
        if shortest and shortest not in TRIVIAL:
            found.append(shortest)
    return found or [text]


def _shortest(tails: list[str]) -> str:
    """The shortest tail; an empty one is replaced by whatever comes after it, as upstream does."""
    best = ""
    for tail in tails:
        if not best or len(tail) < len(best):
            best = tail
    return best


def _normal(text: str) -> list[Part]:
    """A number rounded to two places, or the lower-cased text; one letter only beside a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]
