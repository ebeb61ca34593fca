"""Deciding on millions of pairs: findings wait on disk in the order of pairs, and a decision is one number each.

The filters go over the pairs one after the other, each over what is left; every pass streams pairs and findings from
disk side by side. What a filter itself must hold for all of them (hashes, scores) is its own affair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from llavaflow.stages._measure import Finding
from llavaflow.stages._pairs import OK, Pair, Pairs
from llavaflow.stages.filters._record_filter import Measured, RecordFilter

KEPT, FAILED = 0, 1
_BLOCK = 10_000


class Findings:
    """What was measured of every pair, one line each in the order of pairs, in a file of the work folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, findings: Iterable[Finding]) -> None:
        """Write all of them; an earlier file is replaced."""
        with self.path.open("wb") as stream:
            for finding in findings:
                stream.write(orjson.dumps({"signals": finding.signals, "failed": finding.failed}) + b"\n")

    def lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as stream:
            yield from stream

    def beside(self, pairs: Pairs) -> Iterator[tuple[Pair, Finding]]:
        """Every pair with its finding."""
        for pair, line in zip(pairs, self.lines(), strict=True):
            yield pair, Finding(id=pair.id, sha256=pair.sha256, **orjson.loads(line))


@dataclass(kw_only=True)
class Decisions:
    """What became of each pair: `codes[place]` is KEPT, FAILED, or the number of a (filter, reason) in `reasons`."""

    codes: NDArray[np.int16]
    reasons: list[tuple[str, str]] = field(default_factory=lambda: [("", ""), ("", "")])

    def drop(self, places: NDArray[np.int64] | int, rule: str, reason: str) -> None:
        if (rule, reason) not in self.reasons:
            self.reasons.append((rule, reason))
        self.codes[places] = self.reasons.index((rule, reason))

    def of(self, place: int) -> tuple[str, str | None, str | None]:
        """Status, filter and reason of one pair."""
        code = int(self.codes[place])
        if code in (KEPT, FAILED):
            return ("failed" if code else OK), None, None
        return "dropped", *self.reasons[code]

    def counts(self) -> Counter[tuple[str, str]]:
        """How many pairs each (filter, reason) dropped."""
        found = np.bincount(self.codes, minlength=len(self.reasons))
        return Counter({reason: int(found[code]) for code, reason in enumerate(self.reasons) if code > 1})

    def total(self, code: int) -> int:
        return int((self.codes == code).sum())


@dataclass(frozen=True, kw_only=True)
class Left:
    """The pairs that no filter has dropped so far, with their signals; each pass over it reads them anew."""

    pairs: Pairs
    findings: Findings
    decisions: Decisions

    def __iter__(self) -> Iterator[Measured]:
        return (record for record, _ in self.placed())

    def placed(self) -> Iterator[tuple[Measured, int]]:
        """Each with its place among all pairs. What is dropped during a pass is still passed over."""
        codes = self.decisions.codes
        for place, (pair, line) in enumerate(zip(self.pairs, self.findings.lines(), strict=True)):
            if codes[place] == KEPT:
                yield Measured(pair=pair, signals=orjson.loads(line)["signals"]), place


def decide(pairs: Pairs, findings: Findings, filters: Sequence[RecordFilter]) -> Decisions:
    """The decision on every pair: the filters one after the other, each over what is left."""
    codes = np.zeros(len(pairs), np.int16)
    for place, line in enumerate(findings.lines()):
        codes[place] = FAILED if orjson.loads(line)["failed"] else KEPT
    decisions = Decisions(codes=codes)
    left = Left(pairs=pairs, findings=findings, decisions=decisions)
    for rule in filters:
        if _overrides(rule, "verdict"):
            _judge(rule, left)
        if _overrides(rule, "choose"):
            _choose(rule, left)
    return decisions


def _judge(rule: RecordFilter, left: Left) -> None:
    for record, place in left.placed():
        signal = record.signals.get(rule.name)
        if signal is not None and (reason := rule.verdict(signal)):
            left.decisions.drop(place, rule.name, reason)


def _choose(rule: RecordFilter, left: Left) -> None:
    """A filter may go over the records while it chooses, so its choice counts only when it is complete."""
    chosen: list[tuple[NDArray[np.int64], str]] = []
    found = rule.choose(left)
    while block := list(islice(found, _BLOCK)):
        for reason in sorted({reason for _, reason in block}):
            chosen.append((left.pairs.places([id for id, why in block if why == reason]), reason))
    for places, reason in chosen:
        left.decisions.drop(places, rule.name, reason)


def _overrides(rule: RecordFilter, name: str) -> bool:
    return getattr(type(rule), name) is not getattr(RecordFilter, name)
