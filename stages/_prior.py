"""The prior: the best score that one constant answer reaches, per type of question. A model must beat it to have seen.

Every answer that occurs in the gold is tried as the answer to all questions, by the benchmark's own rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llavaflow.datasets.benchmarks._benchmark import Answer, Benchmark, Item, Options, Pair

MOST_CANDIDATES = 48
WHOLE_IMAGE = "[0.0, 0.0, 1.0, 1.0]"


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The best constant answer and what it scores."""

    answer: str
    score: float


def best_constant(benchmark: Benchmark, items: Sequence[Item]) -> Prior:
    """Try the most frequent gold answers as constants and keep the best."""
    counts = Counter(text for item in items for text in dict.fromkeys(_golds(item)))
    candidates = [text for text, _ in counts.most_common(MOST_CANDIDATES)]
    tried = [Prior(answer=text, score=_score(benchmark, items, text)) for text in candidates]
    return max(tried, key=lambda prior: prior.score)


def _score(benchmark: Benchmark, items: Sequence[Item], text: str) -> float:
    pairs = [Pair(item=item, answer=Answer(id=item.id, text=text, line=0)) for item in items]
    # a constant box is a box of the image, whatever frame the model speaks in
    return benchmark.mark(pairs, Options(box_frame="image"), None).score


def _golds(item: Item) -> Iterator[str]:
    gold: Any = item.gold
    if isinstance(gold, tuple):
        yield WHOLE_IMAGE
        width, height = item.meta["width"], item.meta["height"]
        sides = (width, height, width, height)
        yield str([round(value / side, 3) for value, side in zip(gold, sides, strict=True)])
    elif isinstance(gold, list):
        for human in gold:
            yield str(human["answer"]) if isinstance(human, dict) else str(human)
    else:
        yield str(gold)
