"""Near-duplicates among images without comparing all pairs: perceptual hashes in bands, then a look at small colours.

Two 64-bit hashes that differ in at most d bits agree on at least one of d + 1 bands of bits (pigeonhole), so it is
enough to compare hashes that share a band: every pair within d is found, not only most of them.

The hash sees no colour and little detail: a red and a blue circle have one hash. So a pair counts only when the 8 x 8
colour thumbnails agree too, within `TOLERANCE` levels in every cell; scaling and recompression stay far below that.
"""

from __future__ import annotations

import base64
import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llavaflow.infra.artifact import Json

if TYPE_CHECKING:
    from PIL.Image import Image

BITS = 64
SIDE = 8
TOLERANCE = 18
# comparisons held in memory at once
PAIRS_PER_BLOCK = 1_000_000
# in a bucket of nearly featureless pictures, how far along the sorted bucket a picture looks for its like
MAX_OFFSET = 2_000

Hashes = NDArray[np.uint64]
Ranks = NDArray[np.int64]


@dataclass(frozen=True)
class Prints:
    """The perceptual hashes [n] and colour thumbnails [n, 192] of n images."""

    hashes: Hashes
    thumbs: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.hashes)

    def at(self, places: Ranks) -> Prints:
        return Prints(self.hashes[places], self.thumbs[places])

    def alike(self, first: Ranks, second: Ranks, distance: int) -> NDArray[np.bool_]:
        """Which of the pairs (first[i], second[i]) are near-duplicates."""
        near: NDArray[np.bool_] = np.bitwise_count(self.hashes[first] ^ self.hashes[second]) <= distance
        hits = np.flatnonzero(near)
        apart = np.abs(self.thumbs[first[hits]].astype(np.int16) - self.thumbs[second[hits]])
        near[hits] = apart.max(axis=1, initial=0) <= TOLERANCE
        return near


def fingerprint(image: Image) -> dict[str, Json]:
    """The hash and thumbnail of one RGB image, as JSON."""
    import imagehash
    from PIL import Image as images

    bits: Any = imagehash.phash(image).hash
    thumb = image.resize((SIDE, SIDE), images.Resampling.BOX).tobytes()
    return {"phash": np.packbits(bits.flatten()).tobytes().hex(), "thumb": base64.b64encode(thumb).decode()}


def prints(signals: Iterable[Any]) -> Prints:
    """What `fingerprint` gave for many images, as arrays."""
    hashes, thumbs = array("Q"), bytearray()
    for signal in signals:
        hashes.append(int(signal["phash"], 16))
        thumbs += base64.b64decode(signal["thumb"])
    pixels = np.frombuffer(thumbs, np.uint8).reshape(len(hashes), 3 * SIDE * SIDE)
    return Prints(np.frombuffer(hashes, np.uint64), pixels)


def near_pairs(images: Prints, distance: int) -> Iterator[tuple[Ranks, Ranks]]:
    """Blocks of pairs (i, j) of positions of near-duplicates; a pair may come twice."""
    edges = np.linspace(0, BITS, distance + 2).astype(int)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        band = (images.hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.lexsort((images.hashes, band))
        yield from _pairs_of_band(images, order, band[order], distance)


class Lookup:
    """A small set of images to which many are compared one at a time; nothing is missed within the distance."""

    def __init__(self, images: Prints, distance: int) -> None:
        self._images, self._distance = images, distance
        edges = np.linspace(0, BITS, distance + 2).astype(int).tolist()
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._buckets: dict[tuple[int, int], list[int]] = {}
        for place, bits in enumerate(images.hashes.tolist()):
            for key in self._keys(bits):
                self._buckets.setdefault(key, []).append(place)

    def __len__(self) -> int:
        return len(self._images)

    def has_like(self, image: Prints) -> bool:
        """Whether the one image of `image` is a near-duplicate of one of the set."""
        places = {place for key in self._keys(int(image.hashes[0])) for place in self._buckets.get(key, ())}
        if not places:
            return False
        near = self._images.at(np.array(sorted(places)))
        both = Prints(np.concatenate([image.hashes, near.hashes]), np.concatenate([image.thumbs, near.thumbs]))
        others = np.arange(1, len(both))
        return bool(both.alike(np.zeros_like(others), others, self._distance).any())

    def _keys(self, bits: int) -> list[tuple[int, int]]:
        return [(low, bits >> low & mask) for low, mask in self._bands]


def near_any(images: Prints, others: Prints, distance: int) -> NDArray[np.bool_]:
    """For every image, whether any of the others is its near-duplicate."""
    both = Prints(np.concatenate([others.hashes, images.hashes]), np.concatenate([others.thumbs, images.thumbs]))
    near = np.zeros(len(both), bool)
    for first, second in near_pairs(both, distance):
        across = (first < len(others)) != (second < len(others))
        near[first[across]] = near[second[across]] = True
    return near[len(others) :]


def duplicates(images: Prints, distance: int) -> Ranks:
    """For every image, given from the best to the worst, the position of a better near-duplicate, or -1.

    Only an image that is kept itself can drop another, so that a chain of small steps does not merge into one.
    """
    better = np.full(len(images), -1)
    firsts: dict[bytes, int] = {}
    for position in range(len(images)):
        # a million blank pictures are one entry, not a bucket of a million
        looks = images.hashes[position].tobytes() + images.thumbs[position].tobytes()
        first = firsts.setdefault(hashlib.blake2b(looks, digest_size=16).digest(), position)
        better[position] = first if first != position else -1
    unique = np.fromiter(firsts.values(), np.int64, len(firsts))
    starts, ends, neighbours = _adjacency(images.at(unique), distance)
    dropped = np.full(len(unique), -1)
    for rank in np.flatnonzero(ends > starts):
        if dropped[rank] < 0:
            near = neighbours[starts[rank] : ends[rank]]
            dropped[near[(near > rank) & (dropped[near] < 0)]] = rank
    gone = np.flatnonzero(dropped >= 0)
    better[unique[gone]] = unique[dropped[gone]]
    return better


def _adjacency(images: Prints, distance: int) -> tuple[Ranks, Ranks, Ranks]:
    """Neighbours of every position as slices of one array."""
    blocks = list(near_pairs(images, distance))
    empty = np.empty(0, np.int64)
    first = np.concatenate([empty, *(side for block in blocks for side in block)])
    second = np.concatenate([empty, *(side for block in blocks for side in block[::-1])])
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    every = np.arange(len(images))
    return np.searchsorted(first, every, "left"), np.searchsorted(first, every, "right"), second


def _pairs_of_band(images: Prints, order: Ranks, band: Hashes, distance: int) -> Iterator[tuple[Ranks, Ranks]]:
    """Compare each image with the ones behind it in its bucket, by growing offset, until no bucket is that large."""
    alive = np.arange(max(0, len(order) - 1))
    for offset in range(1, MAX_OFFSET):
        alive = alive[alive + offset < len(order)]
        alive = alive[band[alive] == band[alive + offset]]
        if not len(alive):
            return
        for start in range(0, len(alive), PAIRS_PER_BLOCK):
            block = alive[start : start + PAIRS_PER_BLOCK]
            first, second = order[block], order[block + offset]
            near = images.alike(first, second, distance)
            if near.any():
                yield first[near], second[near]
