"""The local judge: a named double that speaks the OpenAI wire protocol on loopback and judges by rule.

It reads nothing but the HTTP body. For a review it compares each assistant's words with the words of the context and
gives 1 to 10 by their overlap; for MM-Vet's table it compares the prediction with the ground truth, 0.0 to 1.0. It
is no substitute for a language model: it makes the tiny recipe's review run for real, and is named as what it is.
"""

from __future__ import annotations

import re

from llavaflow.stages._teacher import RuleTeacher

NAME = "llavaflow-local-judge"
TITLE = "local judge on loopback (by rule: how many words of an answer the context has; not a language model)"
ANSWER = re.compile(r"\[Assistant (\d)\]\n(.*?)\n\n\[End of Assistant \1\]", re.DOTALL)
CONTEXT = re.compile(r"\[Context\]\n(.*?)\n\n\[Question\]\n(.*?)\n\n\[Assistant 1\]", re.DOTALL)
WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?")
LEAST, MOST = 1, 10


def judge_by_rule(prompt: str) -> str:
    """The reply to a review prompt or to MM-Vet's table; for anything else a refusal to judge."""
    shown = CONTEXT.search(prompt)
    answers = dict(ANSWER.findall(prompt))
    if shown and {"1", "2"} <= set(answers):
        return _review(_words(f"{shown.group(1)} {shown.group(2)}"), answers["1"], answers["2"])
    cells = prompt.strip().split("\n")[-1].split(" | ")
    if len(cells) < 3:
        cells = prompt.strip().split("\n")[-2].split(" | ")
    return f"{_overlap(_words(cells[1]), cells[2]):.1f}" if len(cells) >= 3 else "I can only judge reviews."


def _review(context: frozenset[str], reference: str, candidate: str) -> str:
    scores = [LEAST + (MOST - LEAST) * _overlap(context, answer) for answer in (reference, candidate)]
    shares = " and ".join(f"{_overlap(context, answer):.0%}" for answer in (reference, candidate))
    return f"{scores[0]:.1f} {scores[1]:.1f}\nOf the words of the assistants, {shares} stand in the context."


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.lower()))


def _overlap(known: frozenset[str], answer: str) -> float:
    """The share of an answer's words that are known; an empty answer has none."""
    said = _words(answer)
    return len(said & known) / len(said) if said else 0.0


class LocalJudge(RuleTeacher):
    """The server, for a `with` block; `base_url` is what an OpenAI client takes."""

    thread_name = NAME

    def __init__(self) -> None:
        super().__init__(lambda _, prompt: judge_by_rule(prompt))
