"""Mixtures as values: the sampling notation, and counts that add up to the published ones."""

from __future__ import annotations

import pytest

from llavaflow.datasets._mixture import LLAVA16_MIX, MIX665K, MIXTURES, chosen
from llavaflow.datasets._source import source_names
from llavaflow.infra.errors import InputError


def test_sampling_notation() -> None:
    assert list(chosen("first:2", 5, seed=0, name="x")) == [0, 1]
    assert list(chosen("end:2", 5, seed=0, name="x")) == [3, 4]
    assert list(chosen("first:30%", 5, seed=0, name="x")) == [0, 1]  # rounded up
    assert len(chosen("50%", 9, seed=0, name="x")) == 5
    assert list(chosen("random:3", 2, seed=0, name="x")) == [0, 1]
    assert chosen("random:3", 100, seed=0, name="x") == chosen("random:3", 100, seed=0, name="x")
    assert chosen("random:3", 100, seed=0, name="x") != chosen("random:3", 100, seed=1, name="x")
    assert len(chosen("first:0.07%", 10_000, seed=0, name="x")) == 7
    for wrong in ("last:3", "first:1.5", "end:-1", "random:"):
        with pytest.raises(InputError, match=f"sampling '{wrong}' of x"):
            chosen(wrong, 5, seed=0, name="x")


def test_the_published_mixtures_add_up() -> None:
    assert sum(part.expected or 0 for part in MIX665K.parts) == MIX665K.expected == 665_298
    assert sum(part.expected or 0 for part in MIX665K.parts if part.with_image) == 624_610
    withheld = [part for part in LLAVA16_MIX.parts if part.unpublished]
    assert len(withheld) == 7 and all(part.substitute for part in withheld)


def test_every_part_names_a_source_that_exists() -> None:
    for mixture in MIXTURES.values():
        assert {part.source for part in mixture.parts} <= set(source_names())
