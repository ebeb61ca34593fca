"""Which option a free reply means: the two rule-based readers of the field.

`inferred_option` is MMBench's (VLMEvalKit `can_infer`, lmms-eval `mmbench_evals`): exactly one letter as a word, in
one of a few dresses, else exactly one option whose text occurs in the reply. `best_letter` is lmms-eval's ranked
extractor (`mcq_extract.py`): every dress is looked for, the most confident one wins, and within it the last place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

# MMBench counts E as a letter too: it stands for none of these
LETTERS = "ABCDE"
DRESSES = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip
ARTICLE_WORDS = 3
EDGE_MARKS = (",", ".", "!", "?", ";", ":", "'", '"')
PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is",
    "best answer is", "the correct option is", "correct option is", "the best option is", "best option is",
    "the choice is", "choice is", "the correct choice is", "correct choice is", "i choose", "i select", "i pick",
    "my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
# the rank of a dress: what a reply starts or ends with says more than a letter in the middle
START, END, PHRASE, FALLBACK = 10, 9, 7, 0
SUFFIXES = ((")", 3), (".", 5), (":", 4), (" ", 2))


def inferred_option(reply: str, options: Mapping[str, str]) -> str | None:
    """The option letter that MMBench's rules find, or None when a judge would be asked."""
    return _by_letter(reply) or _by_text(reply, options)


def _by_letter(reply: str) -> str | None:
    words = set(reply.split())
    found = [letter for letter in LETTERS if letter in words]
    # in a longer reply a lone A may be the article
    if len(found) == 1 and not ("A" in words and len(reply.split()) > ARTICLE_WORDS):
        return found[0]
    for before, after in DRESSES:
        found = [letter for letter in LETTERS if f"{before}{letter}{after}" in words]
        if len(found) == 1:
            return found[0]
    return None


def _by_text(reply: str, options: Mapping[str, str]) -> str | None:
    low = reply.lower()
    found = [letter for letter, text in options.items() if text.lower() in low]
    return found[0] if len(found) == 1 else None


def best_letter(reply: str, letters: Sequence[str]) -> str | None:
    """The letter of the most confident dress; of two in the same dress the later one; None without any letter."""
    text = reply.strip()
    for mark in EDGE_MARKS:
        text = text.strip(mark)
    text = f" {text} "
    found = list(_dressed(text, letters)) or [
        (FALLBACK, text.rfind(letter), letter) for letter in letters if letter in text
    ]
    # of equals the first found wins, as in a stable sort
    return max(found, key=lambda candidate: candidate[:2])[2] if found else None


def _dressed(text: str, letters: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """(rank, place, letter) of every letter in a known dress, in the extractor's order."""
    for letter in letters:
        if f"({letter})" in text:
            yield 6, text.rfind(f"({letter})"), letter
    for suffix, rank in SUFFIXES[1:3] + SUFFIXES[:1] + SUFFIXES[3:]:
        for letter in letters:
            if letter + suffix in text:
                yield rank, text.rfind(letter + suffix), letter
    low = text.lower()
    for phrase in PHRASES:
        place = low.find(phrase)
        for letter in letters if place != -1 else ():
            after = text.find(letter, place + len(phrase))
            if after != -1:
                yield PHRASE, after, letter
    bare = text.strip()
    for letter in letters:
        if bare.startswith(letter) and (len(bare) == 1 or not bare[1].isalpha()):
            yield START, 0, letter
    for letter in letters:
        if bare.endswith(letter) and (len(bare) == 1 or not bare[-2].isalpha()):
            yield END, len(text) - 1, letter
