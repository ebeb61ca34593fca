"""Decode: every byte of the image must decode. Drops corrupt and truncated files that a header check lets through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from llavaflow.models.pixels import ImageError
from llavaflow.stages.filters._record_filter import Measure, Picture, RecordFilter, Signal

# the names of this stage for what the decoder says
REASONS = {
    "not-an-image": "not-an-image",
    "too-large": "too-many-pixels",
    "truncated": "truncated-image",
    "corrupt": "corrupt-image",
}


@dataclass(frozen=True, kw_only=True)
class Decode(RecordFilter):
    """Drops what Pillow cannot decode in full. Put it first: the others look at pixels."""

    name: ClassVar[str] = "decode"

    def measurer(self, **_: object) -> Measure:
        return _decode_all

    def verdict(self, signal: Signal) -> str | None:
        fault: str | None = signal["fault"]
        return fault


def _decode_all(pictures: Sequence[Picture]) -> list[Signal]:
    return [{"fault": _fault(picture)} for picture in pictures]


def _fault(picture: Picture) -> str | None:
    try:
        width, height = picture.pixels.size
    except ImageError as error:
        return REASONS[error.kind]
    return None if (width, height) == (picture.pair.width, picture.pair.height) else "size-differs"
