"""Decode: every byte of the image must decode. Drops corrupt and truncated files that a header check lets through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from llavaflow.stages.filters._record_filter import Measure, Picture, RecordFilter, Signal


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
    from PIL import Image, UnidentifiedImageError

    try:
        width, height = picture.pixels.size
    except UnidentifiedImageError:
        return "not-an-image"
    except Image.DecompressionBombError:
        return "too-many-pixels"
    except (OSError, SyntaxError, ValueError, IndexError) as error:
        # Pillow reports broken streams with all of these
        return "truncated-image" if "truncated" in str(error).lower() else "corrupt-image"
    return None if (width, height) == (picture.pair.width, picture.pair.height) else "size-differs"
