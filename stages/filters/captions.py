"""Captions: drops texts that are too short, too long, or not in the language that the model is to learn.

Language is judged without a model, which short alt texts would not feed anyway: letters outside the Latin script,
and, for English, function words of other languages that outnumber the English ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

from llavaflow.stages.filters._record_filter import Measured, RecordFilter

# the commonest function words; a word shared by two languages counts for neither
FUNCTION_WORDS = {
    "en": "the of and to in is on with for at by from an are this that it his her their over under next two",
    "de": "der die das und ist mit von zu den dem ein eine auf für im nicht sich auch bei aus nach",
    "fr": "le la les des et est dans une du au avec pour sur par qui il elle ce cette sont",
    "es": "el los las y es en una del al con para por que su lo como más sus este",
    "it": "il lo gli e è di che una del della con per sul sono nel alla dei",
    "pt": "o os as e é em uma do da com para por que no na um dos das",
    "nl": "de het een en van is op met voor niet aan te dat zijn bij naar",
}
MIN_LATIN_SHARE = 0.8
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, kw_only=True)
class Captions(RecordFilter):
    """Limits in words and characters; `language` "en" or None for any."""

    name: ClassVar[str] = "captions"

    min_words: int = 3
    max_words: int = 60
    max_characters: int = 500
    language: Literal["en"] | None = "en"

    def choose(self, records: Iterable[Measured]) -> Iterator[tuple[str, str]]:
        for record in records:
            if reason := self.fault(record.pair.caption):
                yield record.pair.id, reason

    def fault(self, caption: str) -> str | None:
        """The reason to drop a caption, or None."""
        words = _WORD.findall(caption.lower())
        if len(words) < self.min_words:
            return "short-caption"
        if len(words) > self.max_words or len(caption) > self.max_characters:
            return "long-caption"
        return "other-language" if self.language and not is_english(caption) else None


def is_english(caption: str) -> bool:
    """Whether nothing in a text speaks for another language."""
    if not caption.isascii():
        letters = [character for character in caption if character.isalpha()]
        latin = sum("LATIN" in unicodedata.name(character, "") for character in letters)
        if latin < MIN_LATIN_SHARE * len(letters):
            return False
    words = _WORD.findall(caption.lower())
    counts = {language: sum([word in own for word in words]) for language, own in _distinct_words().items()}
    others = max(count for language, count in counts.items() if language != "en")
    return others < 2 or others <= counts["en"]


@cache
def _distinct_words() -> dict[str, set[str]]:
    sets = {language: set(words.split()) for language, words in FUNCTION_WORDS.items()}
    return {language: own.difference(sets["en"] if language != "en" else set()) for language, own in sets.items()}
