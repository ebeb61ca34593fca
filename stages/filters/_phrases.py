"""Noun phrases of captions: spaCy where it and its model are installed, a rule-based extractor otherwise.

The rules read a caption as runs of content words between function words, verbs and punctuation, which is what noun
phrases are in captions and alt texts. Over the hand-marked captions of the tests the two sets of phrases overlap to
at least 90 % (Jaccard; measured by `agreement`). Agreement with spaCy itself was not measured: its English model is on
no package index. Where it is installed, `agreement(extractor("spacy")(texts), rule_phrases(texts))` measures it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from llavaflow.infra.errors import InputError

Extract = Callable[[Sequence[str]], list[list[str]]]

SPACY_MODEL = "en_core_web_sm"
EXTRACTORS = ("auto", "spacy", "rules")
MAX_WORDS = 5
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")
_WORD = re.compile(r"[^\W\d_]")


def extractor(name: str) -> Extract:
    """The extractor by name; `auto` is spaCy where it can be loaded. Raises InputError when it cannot but must."""
    if name not in EXTRACTORS:
        raise InputError(f"unknown phrase extractor '{name}'. Known: {', '.join(EXTRACTORS)}.")
    if name == "rules" or (name == "auto" and not _has_spacy()):
        return rule_phrases
    if not _has_spacy():
        raise InputError(f"spaCy or its model {SPACY_MODEL} is not installed. Install both, or set extractor='rules'.")
    return _spacy_phrases


def chosen(name: str) -> str:
    """Which extractor `name` stands for here."""
    return "rules" if extractor(name) is rule_phrases else f"spacy/{SPACY_MODEL}"


def rule_phrases(texts: Sequence[str]) -> list[list[str]]:
    """The distinct noun phrases of every text, lower case, in order."""
    return [_phrases_of(text) for text in texts]


def agreement(first: Sequence[Sequence[str]], second: Sequence[Sequence[str]]) -> float:
    """Mean Jaccard overlap of two extractions of the same texts."""
    scores = [_jaccard(set(one), set(two)) for one, two in zip(first, second, strict=True)]
    return sum(scores) / max(1, len(scores))


def _jaccard(one: set[str], two: set[str]) -> float:
    return len(one & two) / len(one | two) if one | two else 1.0


def _phrases_of(text: str) -> list[str]:
    closed = _closed_class()
    found: dict[str, None] = {}
    run: list[str] = []
    for token in [*_TOKEN.findall(text.lower()), "."]:
        if token in closed or not _WORD.match(token) or _is_verb(token, run):
            if run:
                found[" ".join(run[-MAX_WORDS:])] = None
            run = []
        else:
            run.append(token.removesuffix("'s").removesuffix("’s"))
    return list(found)


def _is_verb(token: str, run: list[str]) -> bool:
    """A participle after a noun describes what it does (`a dog running`), at the start it belongs to the noun."""
    return bool(run) and token.endswith("ing") and len(token) > 5 and token not in _nouns_in_ing()


@cache
def _closed_class() -> frozenset[str]:
    """Function words and the verbs of captions: what a noun phrase does not contain."""
    return frozenset(_word_list("closed_class.txt"))


@cache
def _nouns_in_ing() -> frozenset[str]:
    return frozenset(_word_list("nouns_in_ing.txt"))


def _word_list(name: str) -> list[str]:
    text = (files("llavaflow.stages") / "filters" / name).read_text()
    return [word for line in text.splitlines() if not line.startswith("#") for word in line.split()]


@cache
def _has_spacy() -> bool:
    return find_spec("spacy") is not None and find_spec(SPACY_MODEL) is not None


@cache
def _spacy_model() -> Any:
    import spacy

    return spacy.load(SPACY_MODEL, disable=["ner"])


def _spacy_phrases(texts: Sequence[str]) -> list[list[str]]:
    return [
        list(dict.fromkeys(_without_determiner(chunk) for chunk in doc.noun_chunks))
        for doc in _spacy_model().pipe(texts)
    ]


def _without_determiner(chunk: Any) -> str:
    words = [token.text.lower() for token in chunk if token.pos_ not in ("DET", "PRON", "PUNCT")]
    return " ".join(words or [chunk.text.lower()])
