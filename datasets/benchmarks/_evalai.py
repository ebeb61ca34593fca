"""The EvalAI answer normaliser and the VQA soft score, quirk for quirk: published VQA numbers depend on them.

Facts kept on purpose (LLaVA `m4c_evaluator.py`, VQA `vqaEval.py`): a punctuation mark is deleted only next to a space
(or anywhere once the text has a comma between digits) and is otherwise turned into a space; whether it stands next to
a space is looked up in the text before any change; the period pattern has a malformed look-behind, so every period
not followed by a digit goes; and because a flag is passed where a count is expected, at most 32 periods go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
ARTICLES = frozenset(("a", "an", "the"))
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
MOST_PERIODS = int(re.UNICODE)
COMMA_IN_NUMBER = re.compile(r"\d,+\d")
CONTRACTIONS: dict[str, str] = json.loads(
    files("llavaflow.datasets.benchmarks").joinpath("_contractions.json").read_text(encoding="utf-8")
)
HUMANS = 10


def strip_punctuation(text: str) -> str:
    """Delete or blank every punctuation mark; periods last."""
    out = text
    number = COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        if mark in text:
            beside_space = f"{mark} " in text or f" {mark}" in text
            out = out.replace(mark, "" if beside_space or number else " ")
    return PERIOD.sub("", out, count=MOST_PERIODS)


def fold_words(text: str) -> str:
    """Lower-case, number words to digits, no articles, apostrophes restored in contractions."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def flatten(text: str) -> str:
    """One line without edge space."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=200_000)
def official(text: str) -> str:
    """The normal form inside VQA's own evaluation (the text is flattened already)."""
    return fold_words(strip_punctuation(text))


@lru_cache(maxsize=200_000)
def processed(text: str) -> str:
    """The full processor that LLaVA applies to an answer before it is uploaded, and M4C to both sides."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return official(flatten(text))


def soft_score(answer: str, humans: Sequence[str]) -> float:
    """The leave-one-out mean of min(1, matches among the others / 3)."""
    matches = sum(human == answer for human in humans)
    return leave_one_out(matches, len(humans))


@lru_cache(maxsize=1024)
def leave_one_out(matches: int, humans: int) -> float:
    """The soft score of an answer that `matches` of the humans gave, each human being left out once."""
    if not humans or not matches:
        return 0.0
    with_it = matches * min(1.0, (matches - 1) / 3)
    without_it = (humans - matches) * min(1.0, matches / 3)
    return (with_it + without_it) / humans
