"""Sample: the one record that streams through the data stages, and its LLaVA JSON form.

Generators in, generators out. A record that must go keeps travelling with `dropped` set to a kebab-case reason, so
that every stage can count it and write it to its index; only the writer of a mixture leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Role = Literal["human", "gpt"]
IMAGE_TOKEN = "<image>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One utterance; `text` of a human turn may hold the literal `<image>`."""

    role: Role
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """An axis-aligned box in pixels of the image itself (not of the padded square): x1 < x2, y1 < y2."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""

    def in_padded_square(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The box as 0..1 coordinates of the image centred on a square of side max(width, height).

        Source: LLaVA-1.5 mixture boxes; the grounding evaluation of ConvLLaVA undoes this pad.
        """
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        return ((self.x1 + left) / side, (self.y1 + top) / side, (self.x2 + left) / side, (self.y2 + top) / side)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One training or evaluation record.

    id       unique inside its source
    images   paths relative to the image root (or keys inside the shards), in order of use
    parents  ids of the records it was made from, as `source:table/id` (`vqav2:question/12`)
    dropped  None, or the kebab-case reason for which it must not be used
    extra    fields of the original record that must survive a round trip (`model` of ShareGPT rows)
    """

    id: str
    source: str
    images: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    boxes: tuple[Box, ...] = ()
    parents: tuple[str, ...] = ()
    dropped: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def drop(self, reason: str) -> Sample:
        return replace(self, dropped=reason)


def to_llava(sample: Sample) -> dict[str, Any]:
    """The LLaVA JSON record: {id, image?, conversations: [{from, value}]}. `image` is a list for several images."""
    record: dict[str, Any] = {"id": sample.id}
    if sample.images:
        record["image"] = sample.images[0] if len(sample.images) == 1 else list(sample.images)
    record.update(sample.extra)
    record["conversations"] = [{"from": turn.role, "value": turn.text} for turn in sample.turns]
    return record
