"""Upstream's modality-and-length grouping, checked by its rules."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llavaflow.infra.errors import InputError
from llavaflow.models.samplers import grouped_by_length, grouped_by_modality, modality_length, word_length

PER_DEVICE, WORLD = 4, 8
MEGABATCH = PER_DEVICE * WORLD


def signed(images: int, texts: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    lengths = [rng.randint(130, 600) for _ in range(images)] + [-rng.randint(1, 900) for _ in range(texts)]
    rng.shuffle(lengths)
    return lengths


def test_lengths_are_words_with_a_sign_for_text_and_a_bonus_for_images_where_modality_does_not_count() -> None:
    shown, said = ["<image>\na cat ?", "yes it is"], ["a cat ?", "yes"]
    assert (modality_length(shown, True), modality_length(said, False)) == (7, -4)
    assert (word_length(shown, True), word_length(said, False)) == (128 + 7, 4)


@pytest.mark.parametrize(("images", "texts"), [(320, 96), (333, 101), (40, 5)])
def test_every_megabatch_is_of_one_kind_but_the_mixed_tail(images: int, texts: int) -> None:
    lengths = signed(images, texts)
    order = grouped_by_modality(lengths, per_device=PER_DEVICE, world=WORLD)
    assert sorted(order) == list(range(images + texts))
    tail = (images - 1) % MEGABATCH + 1 + (texts - 1) % MEGABATCH + 1
    body, rest = order[: len(order) - tail], order[len(order) - tail :]
    assert len(body) % MEGABATCH == 0
    for start in range(0, len(body), MEGABATCH):
        assert len({lengths[place] > 0 for place in body[start : start + MEGABATCH]}) == 1
    assert rest.tolist() == sorted(rest) and len({lengths[place] > 0 for place in rest}) == 2


def test_ranks_of_a_megabatch_get_equal_counts_and_nearly_equal_sums() -> None:
    lengths = signed(MEGABATCH * 6, 0)
    order = grouped_by_modality(lengths, per_device=PER_DEVICE, world=WORLD)
    for start in range(0, len(order), MEGABATCH):
        ranks = np.abs([lengths[place] for place in order[start : start + MEGABATCH]]).reshape(WORLD, PER_DEVICE)
        assert (np.diff(ranks, axis=1) <= 0).all()
        assert ranks.sum(axis=1).max() < 1.25 * ranks.sum(axis=1).mean()


def test_a_megabatch_is_dealt_longest_first_to_the_shortest_rank() -> None:
    order = grouped_by_modality([9, 8, 7, 3, 2, 1], per_device=3, world=2, permutation=lambda count: range(count))
    # running sums: 9 | 8, 15 | 12, 14 and full | 16
    assert order.tolist() == [0, 3, 4, 1, 2, 5]


def test_a_megabatch_that_ranks_cannot_share_is_strided() -> None:
    order = grouped_by_modality([5, 4, 3, 2, 1], per_device=3, world=2, permutation=lambda count: range(count))
    assert order.tolist() == [0, 2, 4, 1, 3]


def test_the_order_is_that_of_its_seed_and_epoch() -> None:
    lengths = signed(300, 100)
    draws = [
        tuple(grouped_by_modality(lengths, per_device=4, world=8, seed=seed, epoch=epoch))
        for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]
    ]
    assert draws[0] == draws[1] and len(set(draws)) == 3


def test_length_grouping_alone_sorts_every_rank() -> None:
    lengths = [abs(length) for length in signed(MEGABATCH * 3, 0)]
    order = grouped_by_length(lengths, per_device=PER_DEVICE, world=WORLD)
    assert sorted(order) == list(range(len(lengths)))
    ranks = np.array([lengths[place] for place in order]).reshape(-1, PER_DEVICE)
    assert (np.diff(ranks, axis=1) <= 0).all()


def test_a_sample_without_words_is_refused() -> None:
    with pytest.raises(InputError, match="sample 1 has no words"):
        grouped_by_modality([5, 0, -3], per_device=1, world=1)
