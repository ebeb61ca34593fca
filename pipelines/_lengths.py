"""Lengths: how many tokens the samples of a mixture have, as a small histogram, and what padding makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """`rows`: (text tokens, with a picture or not, number of samples)."""

    rows: tuple[tuple[float, bool, float], ...]

    @classmethod
    def of(cls, counts: Mapping[str, int], parts: Mapping[str, Any], samples: int | None) -> Self:
        """The histogram of a mixture from its parts' deciles, scaled to `samples` when that is known."""
        scale = samples / sum(counts.values()) if samples else 1.0
        rows = [
            (float(text), parts[name]["image"], count * scale / 10)
            for name, count in counts.items()
            for text in parts[name]["deciles"]
        ]
        return cls(rows=tuple(rows))

    @property
    def samples(self) -> float:
        return sum(count for _, _, count in self.rows)

    @property
    def pictures(self) -> float:
        return sum(count for _, picture, count in self.rows if picture)

    def tokens(self, image_tokens: float, max_length: int) -> float:
        """Real tokens of one epoch."""
        return sum(count * _length(text, picture, image_tokens, max_length) for text, picture, count in self.rows)

    def computed(self, image_tokens: float, max_length: int, *, per_device: int, batching: str) -> float:
        """Tokens that the devices work on in one epoch: the real ones, and the padding of this way to batch.

        Packed rows have next to none. A padded batch is as long as its longest sample; upstream's grouping keeps
        pictures and texts apart but deals the lengths evenly to the ranks, so within a batch they still mix.
        """
        if batching == "packed":
            return self.tokens(image_tokens, max_length) * 1.02
        groups = (True, False) if batching == "grouped" else (None,)
        return sum(self._padded(group, image_tokens, max_length, per_device) for group in groups)

    def _padded(self, group: bool | None, image_tokens: float, max_length: int, per_device: int) -> float:
        """Samples of a group times the expected length of the longest of `per_device` of them."""
        rows = sorted(
            (_length(text, picture, image_tokens, max_length), count)
            for text, picture, count in self.rows
            if group is None or picture == group
        )
        total = sum(count for _, count in rows)
        expected = seen = 0.0
        for length, count in rows:
            # P(longest of k <= length) = F(length)^k
            expected += length * (((seen + count) / total) ** per_device - (seen / total) ** per_device)
            seen += count
        return total * expected


def _length(text: float, picture: bool, image_tokens: float, max_length: int) -> float:
    return min(float(max_length), text + (image_tokens if picture else 0.0))
