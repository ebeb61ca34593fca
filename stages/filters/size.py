"""Size: drops images that are too small, too large or too long for a vision tower to see anything in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from llavaflow.stages.filters._record_filter import Measured, RecordFilter


@dataclass(frozen=True, kw_only=True)
class Size(RecordFilter):
    """Limits on the shorter side, the pixels and the ratio of the sides; from the image table, nothing is decoded."""

    name: ClassVar[str] = "size"

    min_side_px: int = 64
    max_pixels: int = 89_478_485
    max_aspect_ratio: float = 4.0

    def choose(self, records: Iterable[Measured]) -> Iterator[tuple[str, str]]:
        for record in records:
            width, height = record.pair.width, record.pair.height
            short, long = sorted((width, height))
            if short < self.min_side_px:
                yield record.pair.id, "too-small"
            elif width * height > self.max_pixels:
                yield record.pair.id, "too-many-pixels"
            elif long > self.max_aspect_ratio * short:
                yield record.pair.id, "extreme-aspect"
