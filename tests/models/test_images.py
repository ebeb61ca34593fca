"""Visual token counts and tiles: the published tables, and a slow reference for every size."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llavaflow.infra.errors import InputError
from llavaflow.models.images import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    PINPOINTS_336,
    PINPOINTS_384,
    ImageRule,
    best_resolution,
    count_tiles,
    count_tokens,
    dummy,
    layout,
    parse_pinpoints,
    token_grid,
    transform,
)

CLIP = ImageRule(aspect="anyres", pinpoints=PINPOINTS_336)
SIGLIP = ImageRule(
    aspect="anyres", size=384, patch=14, pinpoints=PINPOINTS_384, mean=HALF, std=HALF, crop=False, upright=False
)
NINE = ImageRule(aspect="anyres", size=384, pinpoints=parse_pinpoints("(1x1),...,(6x6)", 384), crop=False, max_tiles=9)

WORKED = [
    ((336, 336), 1176, 1513),
    ((500, 375), 2340, 1728),
    ((640, 480), 2340, 2929),
    ((480, 640), 2352, 2943),
    ((672, 336), 1752, 2214),
    ((336, 672), 1776, 2241),
    ((672, 672), 2928, 3699),
    ((1000, 1000), 2928, 3699),
    ((1280, 720), 1948, 2379),
    ((1008, 336), 2328, 2943),
    ((336, 1008), 2376, 2997),
    ((3000, 500), 1452, 1795),
    ((200, 150), 1026, 1289),
]


@pytest.mark.parametrize(("size", "clip", "siglip"), WORKED)
def test_counts_of_the_published_table(size: tuple[int, int], clip: int, siglip: int) -> None:
    assert (count_tokens(CLIP, *size), count_tokens(SIGLIP, *size)) == (clip, siglip)


@pytest.mark.parametrize(
    ("rule", "tokens"),
    [
        (ImageRule(aspect="pad"), 576),
        (ImageRule(aspect="square", size=224), 256),
        (ImageRule(aspect="square", size=224, class_token=True), 257),
        (ImageRule(aspect="pad", size=384, crop=False), 729),
        (ImageRule(aspect="pad", size=768, patch=64), 144),
        (ImageRule(aspect="pad", size=1024, patch=64), 256),
        (ImageRule(aspect="pad", size=1536, patch=64), 576),
    ],
)
def test_counts_of_fixed_towers(rule: ImageRule, tokens: int) -> None:
    assert {count_tokens(rule, w, h) for w, h in [(1, 1), (640, 480), (2000, 3)]} == {tokens}
    assert len(layout(rule, 640, 480)) == tokens


def slow_count(rule: ImageRule, width: int, height: int) -> int:
    """Upstream's way: build the feature map, slice the padding off, append a column, count what is left."""
    best, most, least = None, -1, 0.0
    for w, h in rule.pinpoints:
        scale = min(w / width, h / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        if kept > most or (kept == most and w * h - kept < least):
            best, most, least = (w, h), kept, w * h - kept
    assert best is not None
    feature = np.zeros((best[1] // rule.size * rule.side, best[0] // rule.size * rule.side))
    current_high, current_wide = feature.shape
    if width / height > current_wide / current_high:
        padding = (current_high - int(height * (current_wide / width))) // 2
        feature = feature[padding : current_high - padding]
    else:
        padding = (current_wide - int(width * (current_high / height))) // 2
        feature = feature[:, padding : current_wide - padding]
    high, wide = feature.shape
    if rule.max_tiles is not None:
        times = math.sqrt(high * wide / (rule.max_tiles * rule.side**2))
        if times > 1.1:
            high, wide = int(high // times), int(wide // times)
    return rule.side**2 + np.concatenate([np.zeros((high, wide)), np.zeros((high, 1))], axis=1).size


@pytest.mark.parametrize("rule", [CLIP, SIGLIP, NINE], ids=["clip-336", "siglip-384", "anyres-max-9"])
def test_counts_of_sizes_up_to_2000(rule: ImageRule) -> None:
    rng = random.Random(0)
    edge = [1, 2, 3, 27, 335, 336, 337, 383, 384, 385, 671, 672, 673, 1007, 1008, 1009, 1999, 2000]
    sizes = [(w, h) for w in edge for h in edge] + [(rng.randint(1, 2000), rng.randint(1, 2000)) for _ in range(3000)]
    for width, height in sizes:
        assert count_tokens(rule, width, height) == slow_count(rule, width, height), (width, height)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [CLIP, SIGLIP], ids=["clip-336", "siglip-384"])
def test_counts_of_every_size_up_to_2000(rule: ImageRule) -> None:
    widths, heights = np.meshgrid(np.arange(1, 2001), np.arange(1, 2001), indexing="ij")
    expected = vectorised(rule, widths.ravel(), heights.ravel())
    for place, (width, height) in enumerate(zip(widths.ravel().tolist(), heights.ravel().tolist(), strict=True)):
        assert count_tokens.__wrapped__(rule, width, height) == expected[place], (width, height)


def vectorised(rule: ImageRule, width: Any, height: Any) -> Any:
    """The same arithmetic over arrays, so that four million sizes take seconds."""
    best_w, best_h = np.zeros_like(width), np.zeros_like(width)
    most, least = np.full_like(width, -1), np.zeros_like(width)
    for w, h in rule.pinpoints:
        scale = np.minimum(w / width, h / height)
        kept = np.minimum((width * scale).astype(int) * (height * scale).astype(int), width * height)
        better = (kept > most) | ((kept == most) & (w * h - kept < least))
        best_w, best_h = np.where(better, w, best_w), np.where(better, h, best_h)
        most, least = np.where(better, kept, most), np.where(better, w * h - kept, least)
    wide, high = best_w // rule.size * rule.side, best_h // rule.size * rule.side
    flat = width / height > wide / high
    high = np.where(flat, high - 2 * ((high - (height * (wide / width)).astype(int)) // 2), high)
    wide = np.where(
        flat, wide, wide - 2 * ((wide - (width * (best_h // rule.size * rule.side / height)).astype(int)) // 2)
    )
    if rule.max_tiles is not None:
        times = np.sqrt(high * wide / (rule.max_tiles * rule.side**2))
        shrink = times > 1.1
        safe = np.where(shrink, times, 1.0)
        high, wide = np.where(shrink, high // safe, high).astype(int), np.where(shrink, wide // safe, wide).astype(int)
    return rule.side**2 + high * (wide + 1)


@pytest.mark.parametrize("size", [(640, 480), (480, 641), (336, 336), (2000, 3), (3, 2000), (37, 41)])
@pytest.mark.parametrize("rule", [CLIP, SIGLIP], ids=["clip-336", "siglip-384"])
def test_layout_picks_the_features_that_upstream_keeps(rule: ImageRule, size: tuple[int, int]) -> None:
    grid = token_grid(rule, *size)
    side = rule.side
    picked = layout(rule, *size)
    assert len(picked) == count_tokens(rule, *size)
    assert picked[: side * side].tolist() == list(range(side * side))
    # name every feature by its tile and place, walk the joined map row by row
    expected = []
    for y in range(grid.top, grid.top + grid.height):
        for x in range(grid.left, grid.left + grid.width):
            tile = 1 + (y // side) * grid.tiles_wide + x // side
            expected.append(tile * side * side + (y % side) * side + x % side)
        expected.append(-1)
    assert picked[side * side :].tolist() == expected


def test_flat_merge_takes_every_tile_whole() -> None:
    rule = ImageRule(aspect="anyres", pinpoints=PINPOINTS_336, merge="flat")
    assert count_tokens(rule, 640, 480) == 5 * 576 == len(layout(rule, 640, 480))


def test_ties_between_pinpoints_go_to_the_earlier() -> None:
    assert best_resolution(100, 100, ((336, 672), (672, 336))) == (336, 672)
    assert best_resolution(100, 100, ((672, 336), (336, 672))) == (672, 336)


def test_pinpoints_are_read_as_configurations_write_them() -> None:
    assert parse_pinpoints("[(336, 672), (672, 336)]", 336) == ((336, 672), (672, 336))
    assert parse_pinpoints("[[336, 672], [672,336]]", 336) == ((336, 672), (672, 336))
    grid = parse_pinpoints("(1x1),...,(6x6)", 384)
    assert len(grid) == 36 and grid[:3] == ((384, 384), (384, 768), (384, 1152)) and grid[-1] == (2304, 2304)
    with pytest.raises(InputError, match="tile size"):
        parse_pinpoints("(1x1),...,(6x6)", 300)
    with pytest.raises(InputError, match="no pinpoints"):
        parse_pinpoints("large", 336)


def test_contradictory_rules_are_refused() -> None:
    with pytest.raises(InputError, match="needs pinpoints"):
        ImageRule(aspect="anyres")
    with pytest.raises(InputError, match="no multiples"):
        ImageRule(aspect="anyres", pinpoints=((336, 700),))
    with pytest.raises(InputError, match="class token"):
        ImageRule(aspect="anyres", pinpoints=PINPOINTS_336, class_token=True)
    with pytest.raises(InputError, match="no tokens"):
        count_tokens(CLIP, 0, 10)
    with pytest.raises(InputError, match="interpolated"):
        layout(NINE, 2000, 2000)


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


SIZES = [(64, 48), (33, 70), (56, 56), (9, 130), (200, 121)]


def clip_processor(size: int) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


@pytest.mark.parametrize("size", SIZES)
def test_square_equals_the_clip_processor(size: tuple[int, int]) -> None:
    ours = transform(ImageRule(aspect="square", size=56), picture(*size))
    theirs = clip_processor(56)(picture(*size), return_tensors="np")["pixel_values"]
    assert ours.dtype == np.float32 and np.array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize("size", SIZES)
def test_squash_equals_the_siglip_processor(size: tuple[int, int]) -> None:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    rule = ImageRule(aspect="square", size=56, mean=HALF, std=HALF, crop=False)
    theirs = SiglipImageProcessorPil(size={"height": 56, "width": 56})(picture(*size), return_tensors="np")
    assert np.array_equal(transform(rule, picture(*size)), np.asarray(theirs["pixel_values"]))


@pytest.mark.parametrize("size", SIZES)
def test_pad_centres_on_the_mean_colour(size: tuple[int, int]) -> None:
    side = max(size)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = (122, 116, 104)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = np.asarray(picture(*size))
    theirs = clip_processor(56)(Image.fromarray(canvas), return_tensors="np")["pixel_values"]
    assert np.array_equal(transform(ImageRule(aspect="pad", size=56), picture(*size)), np.asarray(theirs))


@pytest.mark.parametrize("size", SIZES)
def test_anyres_equals_the_llava_next_processor(size: tuple[int, int]) -> None:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    pinpoints = tuple((w // 6, h // 6) for w, h in PINPOINTS_336)
    rule = ImageRule(aspect="anyres", size=56, pinpoints=pinpoints)
    theirs = LlavaNextImageProcessorPil(
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
        # transformers writes (height, width) where upstream writes (width, height)
        image_grid_pinpoints=[[h, w] for w, h in pinpoints],
    )(picture(*size), return_tensors="np")["pixel_values"][0]
    ours = transform(rule, picture(*size))
    assert len(ours) == count_tiles(rule, *size) and np.array_equal(ours, np.asarray(theirs))


def test_anyres_tiles_are_row_major_on_black() -> None:
    rule = ImageRule(aspect="anyres", size=28, pinpoints=((56, 56),))
    red_left = Image.new("RGB", (56, 28), (255, 0, 0))
    red_left.paste((0, 0, 255), (28, 0, 56, 28))
    tiles = transform(rule, red_left)
    middle = (tiles[1:, :, 20, 14] * np.array(CLIP_STD) + np.array(CLIP_MEAN)).round(2)
    assert middle.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_dummy_is_one_black_tile() -> None:
    assert dummy(CLIP).shape == (1, 3, 336, 336) and not dummy(CLIP).any()
