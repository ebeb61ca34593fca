"""Images: how many tokens a picture becomes, and the pixels a vision tower gets for it.

    square   resize the shorter side, cut the middle out (what a CLIP processor does alone)
    pad      centre on a square filled with the tower's mean colour, then as above
    anyres   the whole picture squashed to one tile, then the picture cut into tiles of the pinpoint that fits best

`count_tokens` needs only width and height, so that every length is known before a file is opened. `layout` is the same
count as a gather: which tower feature stands at each place of the sequence. Both follow upstream's arithmetic to the
last floor, odd paddings and empty strips included; transformers' LlavaNext rounds differently for some sizes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from llavaflow.infra.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Aspect = Literal["square", "pad", "anyres"]
Merge = Literal["spatial_unpad", "flat"]
Floats = npt.NDArray[np.float32]
Size = tuple[int, int]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
PINPOINTS_336: tuple[Size, ...] = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
PINPOINTS_384: tuple[Size, ...] = ((384, 768), (768, 384), (768, 768), (1152, 384), (384, 1152))
# the tile sizes for which upstream accepts a range like "(1x1),...,(6x6)"
RANGE_TILES = (224, 336, 384, 448, 512)


@dataclass(frozen=True, kw_only=True)
class ImageRule:
    """How images enter one model.

    size, patch   side of a tile and of what one token sees, in pixels (ConvNeXt: its whole stride)
    pinpoints     (width, height) in pixels that anyres may choose from, in order of preference
    merge         spatial_unpad: tiles joined to one map, padding cut off, a newline after every row; flat: neither
    max_tiles     anyres_max_N: the joined map is shrunk until it holds at most about N tiles of tokens
    class_token   the tower's class token is kept (`cls_patch`)
    crop          the tower's processor keeps the aspect and crops (CLIP); False squashes to the square (SigLIP)
    upright       apply the EXIF orientation; upstream does not
    """

    aspect: Aspect = "pad"
    size: int = 336
    patch: int = 14
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    pinpoints: tuple[Size, ...] = ()
    merge: Merge = "spatial_unpad"
    max_tiles: int | None = None
    class_token: bool = False
    crop: bool = True
    upright: bool = True

    def __post_init__(self) -> None:
        if self.aspect == "anyres" and not self.pinpoints:
            raise InputError("an anyres image rule needs pinpoints, for example PINPOINTS_336")
        if self.aspect == "anyres" and self.class_token:
            raise InputError("anyres joins patch tokens to a map: a class token has no place in it")
        uneven = [pair for pair in self.pinpoints if pair[0] % self.size or pair[1] % self.size]
        if uneven:
            raise InputError(f"pinpoints {uneven} are no multiples of the tile size {self.size}")

    @property
    def side(self) -> int:
        """Tokens along one side of a tile."""
        return self.size // self.patch

    @property
    def tile_tokens(self) -> int:
        return self.side * self.side + self.class_token


def parse_pinpoints(text: str, tile: int) -> tuple[Size, ...]:
    """Pinpoints as configurations write them: "[(336, 672), ...]" in pixels, or a range "(1x1),...,(6x6)" in tiles."""
    ranges = [(int(a), int(b)) for a, b in re.findall(r"\((\d+)x(\d+)\)", text)]
    if ranges:
        if tile not in RANGE_TILES:
            raise InputError(f"a pinpoint range needs a tile size out of {RANGE_TILES}, not {tile}")
        (left, top), (right, bottom) = ranges[0], ranges[-1]
        return tuple((i * tile, j * tile) for i in range(left, right + 1) for j in range(top, bottom + 1))
    pairs = tuple((int(a), int(b)) for a, b in re.findall(r"[(\[]\s*(\d+)\s*,\s*(\d+)\s*[)\]]", text))
    if not pairs:
        raise InputError(f"no pinpoints in {text!r}: expected [(336, 672), ...] or (1x1),...,(6x6)")
    return pairs


def best_resolution(width: int, height: int, pinpoints: tuple[Size, ...]) -> Size:
    """The pinpoint that keeps most of the image, then wastes least, then comes first."""

    def rank(pinpoint: Size) -> tuple[int, int]:
        scale = min(pinpoint[0] / width, pinpoint[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return -kept, pinpoint[0] * pinpoint[1] - kept

    return min(pinpoints, key=rank)


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """The joined map of an anyres image, in tokens: its full size, the padding cut off, and the final size."""

    tiles_wide: int
    tiles_high: int
    left: int
    top: int
    width: int
    height: int
    shrunk: Size | None = None


def token_grid(rule: ImageRule, width: int, height: int) -> TokenGrid:
    """The map that is left of an anyres image after unpadding (and shrinking, for anyres_max_N)."""
    if width < 1 or height < 1:
        raise InputError(f"an image of {width}x{height} pixels has no tokens")
    best = best_resolution(width, height, rule.pinpoints)
    tiles_wide, tiles_high = best[0] // rule.size, best[1] // rule.size
    wide, high = tiles_wide * rule.side, tiles_high * rule.side
    left = top = 0
    if width / height > wide / high:
        top = (high - int(height * (wide / width))) // 2
    else:
        left = (wide - int(width * (high / height))) // 2
    kept_wide, kept_high = wide - 2 * left, high - 2 * top
    shrunk = _shrunk(rule, kept_wide, kept_high)
    return TokenGrid(tiles_wide, tiles_high, left, top, kept_wide, kept_high, shrunk)


def _shrunk(rule: ImageRule, wide: int, high: int) -> Size | None:
    if rule.max_tiles is None:
        return None
    times = math.sqrt(high * wide / (rule.max_tiles * rule.side**2))
    return (int(wide // times), int(high // times)) if times > 1.1 else None


@lru_cache(maxsize=1 << 16)
def count_tokens(rule: ImageRule, width: int, height: int) -> int:
    """Visual tokens of an image of this size in pixels, as it is shown (after EXIF rotation if the rule applies it)."""
    if rule.aspect != "anyres":
        return rule.tile_tokens
    grid = token_grid(rule, width, height)
    if rule.merge == "flat":
        return rule.tile_tokens * (1 + grid.tiles_wide * grid.tiles_high)
    wide, high = grid.shrunk or (grid.width, grid.height)
    return rule.tile_tokens + high * (wide + 1)


def count_tiles(rule: ImageRule, width: int, height: int) -> int:
    """How many tiles `transform` makes of an image of this size."""
    if rule.aspect != "anyres":
        return 1
    best = best_resolution(width, height, rule.pinpoints)
    return 1 + (best[0] // rule.size) * (best[1] // rule.size)


def layout(rule: ImageRule, width: int, height: int) -> npt.NDArray[np.int64]:
    """For each visual token the row of the flattened (tiles * tile_tokens) features it takes; -1 is the newline.

    An anyres_max_N image that has to be shrunk is interpolated, not gathered: see `token_grid(...).shrunk`.
    """
    base = np.arange(rule.tile_tokens, dtype=np.int64)
    if rule.aspect != "anyres":
        return base
    if rule.merge == "flat":
        return np.arange(count_tokens(rule, width, height), dtype=np.int64)
    grid = token_grid(rule, width, height)
    if grid.shrunk is not None:
        raise InputError(f"a {width}x{height} image is interpolated under anyres_max_{rule.max_tiles}, not gathered")
    tiles = np.arange(grid.tiles_high * grid.tiles_wide * rule.tile_tokens, dtype=np.int64)
    by_tile = tiles.reshape(grid.tiles_high, grid.tiles_wide, rule.side, rule.side)
    joined = by_tile.transpose(0, 2, 1, 3).reshape(grid.tiles_high * rule.side, -1) + rule.tile_tokens
    kept = joined[grid.top : grid.top + grid.height, grid.left : grid.left + grid.width]
    rows = np.concatenate([kept, np.full((grid.height, 1), -1, np.int64)], axis=1)
    return np.concatenate([base, rows.ravel()])


def dummy(rule: ImageRule) -> Floats:
    """One black tile for a batch without images: it keeps the tower in the graph so that ZeRO ranks stay in step."""
    return np.zeros((1, 3, rule.size, rule.size), np.float32)


def transform(rule: ImageRule, image: Image.Image) -> Floats:
    """Tiles of an RGB image, normalised for the tower: (tiles, 3, size, size), the whole picture first."""
    from llavaflow.models import pixels

    if rule.aspect == "anyres":
        best = best_resolution(image.width, image.height, rule.pinpoints)
        whole = image.resize((rule.size, rule.size))
        tiles = [whole, *pixels.tiles(pixels.fit(image, best), rule.size)]
    elif rule.aspect == "pad":
        fill = (int(rule.mean[0] * 255), int(rule.mean[1] * 255), int(rule.mean[2] * 255))
        tiles = [pixels.padded_tile(image, fill, rule.size)]
    else:
        tiles = [pixels.to_tile(image, rule.size, crop=rule.crop)]
    return pixels.normalise(tiles, rule.mean, rule.std)
