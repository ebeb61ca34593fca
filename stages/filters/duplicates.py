"""Duplicates: of images with the same bytes, or that look nearly the same, only the largest stays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from llavaflow.stages.filters._near import duplicates, fingerprint, prints
from llavaflow.stages.filters._record_filter import Measure, Measured, Picture, RecordFilter, Signal

_REASONS = ("", "exact-duplicate", "near-duplicate")
# 128 bits of a digest tell any number of images apart
_DIGEST_DIGITS = 32


@dataclass(frozen=True, kw_only=True)
class Duplicates(RecordFilter):
    """`max_distance` is the number of bits (of 64) in which perceptual hashes may differ; None: exact copies only."""

    name: ClassVar[str] = "duplicates"

    max_distance: int | None = 4

    def measurer(self, **_: object) -> Measure | None:
        return None if self.max_distance is None else _hash_all

    def choose(self, records: Iterable[Measured]) -> Iterator[tuple[str, str]]:
        reasons = self._reasons(records)
        for record, reason in zip(records, reasons, strict=True):
            if reason:
                yield record.pair.id, _REASONS[reason]

    def _reasons(self, records: Iterable[Measured]) -> bytearray:
        """For every record the place of its reason, 0 for none."""
        pairs = (record.pair for record in records)
        areas, digests = array("q"), []
        for pair in pairs:
            areas.append(pair.width * pair.height)
            digests.append(pair.sha256[:_DIGEST_DIGITS].encode())
        # the best first: the largest image, then the smaller id
        ranked = np.argsort(-np.frombuffer(areas, np.int64), kind="stable")
        seen: set[bytes] = set()
        reasons = bytearray(len(digests))
        for place in ranked.tolist():
            reasons[place] = digests[place] in seen
            seen.add(digests[place])
        del digests, seen
        if self.max_distance is not None and len(ranked):
            images = prints(record.signals[self.name] for record in records)
            unique = ranked[np.frombuffer(reasons, np.uint8)[ranked] == 0]
            for place in unique[duplicates(images.at(unique), self.max_distance) >= 0].tolist():
                reasons[place] = 2
        return reasons


def _hash_all(pictures: Sequence[Picture]) -> list[Signal]:
    return [fingerprint(picture.pixels) for picture in pictures]
