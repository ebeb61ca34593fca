"""Orders of an epoch other than the plain shuffle: upstream's grouping by modality and length, rule for rule.

Upstream (LLaVA's trainer) sorts inside megabatches of all ranks, spreads each to the ranks by running length, keeps
images and pure text in separate megabatches, and appends both left-over megabatches as one mixed tail. It draws its
inner shuffles from the global random state; here `permutation` is handed in, seeded by seed and epoch by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from llavaflow.infra.errors import InputError

Longs = npt.NDArray[np.int64]
Permutation = Callable[[int], Sequence[int]]

# what upstream adds to the word count of a sample with an image, where samples are grouped by length alone
IMAGE_WORDS = 128


def word_length(texts: Sequence[str], has_image: bool) -> int:
    """Upstream's `lengths`: words of all turns, plus 128 for an image."""
    return sum(len(text.split()) for text in texts) + IMAGE_WORDS * has_image


def modality_length(texts: Sequence[str], has_image: bool) -> int:
    """Upstream's `modality_lengths`: words of all turns, negative for a sample without an image."""
    words = sum(len(text.split()) for text in texts)
    return words if has_image else -words


def grouped_by_modality(
    lengths: Sequence[int],
    *,
    per_device: int,
    world: int,
    seed: int = 0,
    epoch: int = 0,
    permutation: Permutation | None = None,
) -> Longs:
    """The order of upstream's `group_by_modality_length`. `world` is ranks x accumulation, `lengths` are signed."""
    if any(length == 0 for length in lengths):
        raise InputError(f"sample {list(lengths).index(0)} has no words: drop empty samples first")
    draw = permutation or _seeded(seed, epoch)
    shown = [place for place, length in enumerate(lengths) if length > 0]
    said = [place for place, length in enumerate(lengths) if length < 0]
    sizes = [abs(length) for length in lengths]
    if not shown or not said:
        # upstream sorts negative lengths too, which turns "longest first" around when there is only text
        return np.array(_grouped_by_length(lengths, per_device, world, draw), np.int64)
    groups = []
    for places in (shown, said):
        inner = _grouped_by_length([sizes[place] for place in places], per_device, world, draw)
        groups.append(_chunks([places[place] for place in inner], per_device * world))
    whole = [batch for group in groups for batch in group[:-1]]
    batches = [whole[place] for place in draw(len(whole))]
    batches.append(sorted(groups[0][-1] + groups[1][-1]))
    return np.array([place for batch in batches for place in batch], np.int64)


def grouped_by_length(lengths: Sequence[int], *, per_device: int, world: int, seed: int = 0, epoch: int = 0) -> Longs:
    """Length grouping alone: NeXT's `group_by_length`."""
    return np.array(_grouped_by_length(lengths, per_device, world, _seeded(seed, epoch)), np.int64)


def _seeded(seed: int, epoch: int) -> Permutation:
    generator = np.random.default_rng([seed, epoch])
    return lambda count: generator.permutation(count).tolist()


def _chunks(places: list[int], size: int) -> list[list[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]


def _grouped_by_length(lengths: Sequence[int], per_device: int, world: int, draw: Permutation) -> list[int]:
    megabatches = _chunks(list(draw(len(lengths))), per_device * world)
    order: list[int] = []
    for megabatch in megabatches:
        longest_first = sorted(megabatch, key=lambda place: lengths[place], reverse=True)
        order.extend(place for rank in _even(longest_first, lengths, world) for place in rank)
    return order


def _even(places: list[int], lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """To the rank with the shortest sum until it is full; simple striding when the ranks cannot get equal counts."""
    if len(places) % ranks:
        return [places[rank::ranks] for rank in range(ranks)]
    room = len(places) // ranks
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    sums: list[float] = [0.0] * ranks
    for place in places:
        rank = sums.index(min(sums))
        dealt[rank].append(place)
        sums[rank] += lengths[place]
        if len(dealt[rank]) == room:
            sums[rank] = float("inf")
    return dealt
