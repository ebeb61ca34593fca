"""Near-duplicates: every planted one is found, nothing else is dropped, and pictures of other colours are others."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from llavaflow.stages.filters._near import Lookup, Prints, duplicates, fingerprint, near_any, prints


def random_prints(count: int, seed: int) -> Prints:
    rng = np.random.default_rng(seed)
    return Prints(rng.integers(0, 2**64, count, dtype=np.uint64), rng.integers(0, 256, (count, 192), dtype=np.uint8))


def scene(colour: str, x: int = 30) -> Image.Image:
    image = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(image).ellipse((x, 20, x + 40, 60), fill=colour)
    return image


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.resize((100, 75)).save(buffer, "JPEG", quality=70)
    return Image.open(buffer).convert("RGB")


def test_planted_pairs_are_all_found_and_nothing_else() -> None:
    images = random_prints(20_000, 0)
    rng = np.random.default_rng(1)
    planted = {}
    for copy, original in zip(range(15_000, 16_000), rng.permutation(15_000)[:1000], strict=True):
        flips = rng.choice(64, int(rng.integers(0, 5)), replace=False)
        images.hashes[copy] = images.hashes[original] ^ np.uint64(sum(1 << int(bit) for bit in flips))
        images.thumbs[copy] = np.clip(images.thumbs[original].astype(int) + rng.integers(-9, 10, 192), 0, 255)
        planted[copy] = int(original)
    better = duplicates(images, 4)
    assert {int(copy): int(better[copy]) for copy in np.flatnonzero(better >= 0)} == planted


def test_a_chain_of_small_steps_is_not_one_picture() -> None:
    hashes = np.array([0b0, 0b11, 0b1111, 0b111111], np.uint64)
    images = Prints(hashes, np.zeros((4, 192), np.uint8))
    assert duplicates(images, 2).tolist() == [-1, 0, -1, 2]


def test_many_equal_pictures_are_one_entry() -> None:
    images = Prints(np.zeros(50_000, np.uint64), np.zeros((50_000, 192), np.uint8))
    better = duplicates(images, 4)
    assert better[0] == -1 and (better[1:] == 0).all()


def test_recompressed_copies_are_found_and_other_colours_are_not() -> None:
    pictures = [scene("red"), recompressed(scene("red")), scene("blue"), scene("red", x=60)]
    assert duplicates(prints([fingerprint(picture) for picture in pictures]), 4).tolist() == [-1, 0, -1, -1]


def test_what_another_set_also_shows() -> None:
    benchmark = prints([fingerprint(scene("red")), fingerprint(scene("green", x=70))])
    own = prints([fingerprint(recompressed(scene("green", x=70))), fingerprint(scene("blue"))])
    assert near_any(own, benchmark, 4).tolist() == [True, False]
    assert near_any(own, prints([]), 4).tolist() == [False, False]


def test_a_lookup_finds_what_all_comparisons_find() -> None:
    known, asked = random_prints(300, 1), random_prints(40, 2)
    hashes, thumbs = asked.hashes.copy(), asked.thumbs.copy()
    for place, flips in ((3, 0b1), (7, 0b101), (11, 0b10101)):
        hashes[place], thumbs[place] = known.hashes[place] ^ np.uint64(flips), known.thumbs[place]
    asked = Prints(hashes, thumbs)
    found = [Lookup(known, 2).has_like(asked.at(np.array([place]))) for place in range(len(asked))]
    assert found == near_any(asked, known, 2).tolist() and np.flatnonzero(found).tolist() == [3, 7]
