"""Measuring pairs with a chain of filters: the part that runs in Ray workers.

A worker asks the filters in their order and stops asking about a pair at the first verdict against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llavaflow.datasets._shards import ImageTable
from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import LlavaflowError
from llavaflow.models.pixels import ImageError
from llavaflow.stages._pairs import Pair
from llavaflow.stages.filters._record_filter import Measure, Picture, RecordFilter, Signal


@dataclass(kw_only=True)
class Finding:
    """What the filters said about one pair: their signals by filter name, or why it could not be measured."""

    id: str
    sha256: str
    signals: dict[str, Signal] = field(default_factory=dict)
    failed: str | None = None


def make_measure(
    *, filters: Sequence[RecordFilter], prepared: Mapping[str, Mapping[str, Json]], root: Path
) -> Callable[[list[list[Pair]]], list[list[Finding]]]:
    """The function of one worker: loads what the filters need once, then measures chunks of pairs."""
    images = ImageTable(root)
    chain = [(rule, rule.measurer(**prepared[rule.name])) for rule in filters]

    def measure(pairs: Sequence[Pair]) -> list[Finding]:
        findings = [Finding(id=pair.id, sha256=pair.sha256) for pair in pairs]
        left = list(zip(findings, (Picture(pair, images) for pair in pairs), strict=True))
        for rule, look in chain:
            if look is not None and left:
                left = list(_ask(rule, look, left))
        return findings

    return lambda chunks: [measure(chunk) for chunk in chunks]


def _ask(
    rule: RecordFilter, look: Measure, asked: Sequence[tuple[Finding, Picture]]
) -> Iterator[tuple[Finding, Picture]]:
    """Store what one filter finds, and pass on the pairs that the next filter should see."""
    for (finding, picture), signal in zip(asked, _signals(look, [picture for _, picture in asked]), strict=True):
        if isinstance(signal, Exception):
            finding.failed = f"{rule.name}: {type(signal).__name__}: {signal}"[:300]
            continue
        finding.signals[rule.name] = signal
        if rule.verdict(signal) is None:
            yield finding, picture


def _signals(look: Measure, pictures: Sequence[Picture]) -> Sequence[Signal | Exception]:
    """Measure a batch; when that fails, one by one, so that a single odd pair does not take the others along."""
    try:
        return look(pictures)
    except Exception as error:
        # a picture that cannot be decoded concerns one pair, any other error of ours the whole run
        if isinstance(error, LlavaflowError) and not isinstance(error, ImageError):
            raise
        if len(pictures) == 1:
            return [error]
        return [signal for picture in pictures for signal in _signals(look, [picture])]
