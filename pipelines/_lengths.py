"""Lengths: how many tokens the samples of a mixture have, as a small histogram, and what padding makes of them.

The histograms are `_length_census.json`: deciles of each part, counts of each mixture, and where an estimate stands in
for a count, on what it rests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Self

Size = tuple[int, int]
# the last decile stands for its mean; its longest sample is about twice that
LONGEST = 2.0


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """`rows`: (text tokens, with a picture or not, number of samples); `sizes`: (width, height) and how many have it.

    basis: what they rest on where nobody counted.
    """

    rows: tuple[tuple[float, bool, float], ...]
    sizes: tuple[tuple[Size, float], ...] = ()
    basis: str = ""

    @classmethod
    def of(cls, counts: Mapping[str, int], parts: Mapping[str, Any], samples: int | None, basis: str = "") -> Self:
        """The histogram of a mixture from its parts' deciles, scaled to `samples` when that is known."""
        scale = samples / sum(counts.values()) if samples else 1.0
        rows = [
            (float(text), parts[name]["size"] is not None, count * scale / 10)
            for name, count in counts.items()
            for text in parts[name]["deciles"]
        ]
        seen = [(parts[name]["size"], count * scale) for name, count in counts.items() if parts[name]["size"]]
        return cls(rows=tuple(rows), sizes=tuple(((width, height), n) for (width, height), n in seen), basis=basis)

    @property
    def samples(self) -> float:
        return sum(count for _, _, count in self.rows)

    @property
    def pictures(self) -> float:
        return sum(count for _, picture, count in self.rows if picture)

    def mean_over_pictures(self, value: Callable[[int, int], float]) -> float:
        """The mean of what a picture's width and height decide."""
        return sum(count * value(*size) for size, count in self.sizes) / sum(count for _, count in self.sizes)

    def tokens(self, image_tokens: float, max_length: int) -> float:
        """Real tokens of one epoch."""
        return sum(count * _length(text, picture, image_tokens, max_length) for text, picture, count in self.rows)

    def longest(self, image_tokens: float, max_length: int) -> int:
        """Tokens of the longest sample, cut at the limit."""
        return max(int(_length(LONGEST * text, picture, image_tokens, max_length)) for text, picture, _ in self.rows)

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


@cache
def census() -> dict[str, Any]:
    """The shipped table: `parts`, `mixtures`, `aliases`, and `basis` for mixtures whose lengths nobody counted."""
    loaded: dict[str, Any] = json.loads(files("llavaflow.pipelines").joinpath("_length_census.json").read_text())
    return loaded


def mixture_of(names: Iterable[str]) -> str | None:
    """The published mixture that these names of files and settings speak of; None without one."""
    table = census()
    known = {alias: alias for alias in table["mixtures"]} | table["aliases"]
    said = " ".join(names).lower()
    found = max((alias for alias in known if alias in said), key=len, default=None)
    return known[found] if found else None


def census_of(names: Iterable[str], samples: int | None) -> Lengths | None:
    """The lengths of the published mixture that these names speak of, scaled to `samples` when that is known."""
    table, mixture = census(), mixture_of(names)
    if mixture is None:
        return None
    return Lengths.of(table["mixtures"][mixture], table["parts"], samples, table["basis"].get(mixture, ""))
