"""Duplicates: of images with the same bytes, or that look nearly the same, only the largest stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from llavaflow.stages.filters._near import duplicates, fingerprint, prints
from llavaflow.stages.filters._record_filter import Measure, Measured, Picture, RecordFilter, Signal


@dataclass(frozen=True, kw_only=True)
class Duplicates(RecordFilter):
    """`max_distance` is the number of bits (of 64) in which perceptual hashes may differ; None: exact copies only."""

    name: ClassVar[str] = "duplicates"

    max_distance: int | None = 4

    def measurer(self, **_: object) -> Measure | None:
        return None if self.max_distance is None else _hash_all

    def choose(self, records: Sequence[Measured]) -> Iterator[tuple[str, str]]:
        # the best first: the largest image, then the smaller id
        ranked = sorted(records, key=lambda record: (-record.pair.width * record.pair.height, record.pair.id))
        seen: set[str] = set()
        unique = []
        for record in ranked:
            if record.pair.sha256 in seen:
                yield record.pair.id, "exact-duplicate"
            else:
                seen.add(record.pair.sha256)
                unique.append(record)
        if self.max_distance is not None and unique:
            images = prints([record.signals[self.name] for record in unique])
            for position in np.flatnonzero(duplicates(images, self.max_distance) >= 0):
                yield unique[position].pair.id, "near-duplicate"


def _hash_all(pictures: Sequence[Picture]) -> list[Signal]:
    return [fingerprint(picture.pixels) for picture in pictures]
