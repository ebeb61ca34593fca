"""Concepts: balances what the captions talk about by the selection rule of CC3M-595K.

Noun phrases are counted over all captions; phrases in fewer than `min_captions` are ignored. From the rarest phrase
up, every caption with the phrase is taken, or a random `max_captions` of them where there are more. What no phrase
took is dropped. (LLaVA, appendix: 3 and 100; about 595,000 of 3 million pairs stay.)

A phrase draws from all of its captions, also from those that a rarer phrase has taken, so the order of the walk does
not change the result and is not walked.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from llavaflow.infra.context import RunContext
from llavaflow.stages.filters._phrases import chosen, extractor
from llavaflow.stages.filters._record_filter import Measure, Measured, Picture, RecordFilter, Signal


@dataclass(frozen=True, kw_only=True)
class Concepts(RecordFilter):
    """The rule's two numbers, the seed of its draws, and where phrases come from: auto, spacy, spacy/MODEL or rules."""

    name: ClassVar[str] = "concepts"

    min_captions: int = 3
    max_captions: int = 100
    extractor: str = "auto"
    seed: int = 0

    def prepare(self, ctx: RunContext) -> dict[str, str]:
        ctx.log.info("noun phrases by %s", chosen(self.extractor))
        return {}

    def facts(self) -> dict[str, str]:
        return {"phrases_by": chosen(self.extractor)}

    def measurer(self, **_: object) -> Measure:
        extract = extractor(self.extractor)

        def measure(pictures: Sequence[Picture]) -> list[Signal]:
            return [{"phrases": found} for found in extract([picture.pair.caption for picture in pictures])]

        return measure

    def choose(self, records: Iterable[Measured]) -> Iterator[tuple[str, str]]:
        phrases = (record.signals[self.name]["phrases"] for record in records)
        taken = balance(phrases, min_captions=self.min_captions, max_captions=self.max_captions, seed=self.seed)
        for record, kept in zip(records, taken.tolist(), strict=True):
            if not kept:
                yield record.pair.id, "common-concept" if record.signals[self.name]["phrases"] else "no-concept"


def balance(captions: Iterable[Sequence[str]], *, min_captions: int, max_captions: int, seed: int) -> NDArray[np.bool_]:
    """Which captions the rule takes, given the distinct phrases of each. Needs 8 bytes per phrase and caption."""
    numbers: dict[str, int] = {}
    phrase_of, caption_of = array("I"), array("I")
    count = 0
    for position, phrases in enumerate(captions):
        count += 1
        for phrase in phrases:
            phrase_of.append(numbers.setdefault(phrase, len(numbers)))
            caption_of.append(position)
    taken = np.zeros(count, bool)
    if not numbers:
        return taken
    by_phrase = np.frombuffer(phrase_of, np.uint32)
    order = np.argsort(by_phrase, kind="stable")
    members = np.frombuffer(caption_of, np.uint32)[order]
    ends = np.cumsum(np.bincount(by_phrase, minlength=len(numbers)))
    for phrase, number in numbers.items():
        end, start = int(ends[number]), int(ends[number - 1]) if number else 0
        if end - start > max_captions:
            drawn = random.Random(f"{seed}/{phrase}").sample(range(start, end), max_captions)
            taken[members[drawn]] = True
        elif end - start >= min_captions:
            taken[members[start:end]] = True
    return taken
