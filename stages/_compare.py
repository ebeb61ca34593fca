"""Two evaluations question by question: which answers flipped, and whether the difference is more than noise.

The interval is a paired bootstrap over questions: the same questions are drawn for both, so what is hard for both
cancels. It says how the mean mark would vary with another sample of questions, nothing about training noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from llavaflow.datasets.benchmarks._files import rows
from llavaflow.infra.errors import InputError

DRAWS = 10_000
SEED = 0
COVERED = 0.95
Key = tuple[str, str, str, int]


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A question whose mark changed."""

    question_id: str
    prompt: str
    before: str
    after: str
    gained: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One benchmark in two evaluations; differences in points (b minus a) of the mean mark."""

    benchmark: str
    n: int
    difference: float
    low: float
    high: float
    flips: tuple[Flip, ...]

    @property
    def noise(self) -> bool:
        """Whether no difference at all lies within the interval."""
        return self.low <= 0 <= self.high


def paired_interval(before: Sequence[float], after: Sequence[float], draws: int = DRAWS) -> tuple[float, float]:
    """The central 95 % of the mean difference in points under resampling of the questions."""
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    generator = np.random.default_rng(SEED)
    means = np.empty(draws)
    for draw in range(draws):
        means[draw] = differences[generator.integers(0, len(differences), len(differences))].mean()
    low, high = np.quantile(means, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return 100 * float(low), 100 * float(high)


def compare(before: Path, after: Path) -> list[Comparison]:
    """Every benchmark that both Scores artifacts hold. Raises InputError when there is none."""
    shared = sorted({path.name for path in _answers(before)} & {path.name for path in _answers(after)})
    if not shared:
        raise InputError(f"{before} and {after} have no benchmark in common: nothing to compare question by question.")
    return [_one(before / "answers" / name, after / "answers" / name) for name in shared]


def _answers(root: Path) -> list[Path]:
    """The answers with the images shown; those of the other variants carry it in the name."""
    return [path for path in (root / "answers").glob("*.jsonl") if "." not in path.stem]


def _one(before: Path, after: Path) -> Comparison:
    first, second = (_by_question(path) for path in (before, after))
    # another harness may have logged an answer without saying what it earned
    marks = {key: (_mark(first[key]), _mark(second[key])) for key in first if key in second}
    known = {key: (a, b) for key, (a, b) in marks.items() if a is not None and b is not None}
    if not known:
        raise InputError(f"{before.stem}: the two evaluations share no question that both have marked.")
    left, right = ([pair[side] for pair in known.values()] for side in (0, 1))
    low, high = paired_interval(left, right)
    flips = tuple(
        Flip(question_id=key[0], prompt=key[1], before=first[key]["text"], after=second[key]["text"], gained=b > a)
        for key, (a, b) in known.items()
        if a != b
    )
    difference = 100 * (sum(right) - sum(left)) / len(known)
    return Comparison(benchmark=before.stem, n=len(known), difference=difference, low=low, high=high, flips=flips)


def _mark(row: dict[str, Any]) -> float | None:
    mark = row["metadata"].get("mark")
    return None if mark is None else float(mark)


def _by_question(path: Path) -> dict[Key, dict[str, Any]]:
    """The answers by id and prompt; where several share both (ChartQA's ids are -1), also by picture and in turn."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows(path):
        groups.setdefault((str(row["question_id"]), str(row["prompt"])), []).append(row)
    found: dict[Key, dict[str, Any]] = {}
    for (id, prompt), group in groups.items():
        for row in group:
            image = str(row["metadata"].get("image", "")) if len(group) > 1 else ""
            turn = next(turn for turn in count() if (id, prompt, image, turn) not in found)
            found[id, prompt, image, turn] = row
    return found
