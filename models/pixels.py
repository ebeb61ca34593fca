"""Pixels: files opened safely to upright RGB, and the resizing that the vision towers were trained with.

Resampling is Pillow's bicubic on 8-bit RGB, rescaled and normalised in float32: the same numbers as the Hugging Face
processors of CLIP, SigLIP and LLaVA-NeXT with their Pillow backend.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from llavaflow.infra.errors import LlavaflowError

Floats = npt.NDArray[np.float32]
# beyond this a picture, or the canvas it is put on, would take more than about half a GB
MAX_PIXELS = 178_956_970

_ORIENTATION = 0x0112
_ROTATED = (5, 6, 7, 8)


class ImageError(LlavaflowError):
    """A picture that cannot be used; `kind` is the kebab-case reason that goes to the index."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


def open_image(data: bytes, *, upright: bool = True) -> Image.Image:
    """Decode a whole file to RGB. Raises ImageError: not-an-image, too-large, truncated or corrupt."""
    image = _header(data)
    try:
        with warnings.catch_warnings():
            # odd EXIF and palette transparency are dealt with below
            warnings.simplefilter("ignore")
            image.load()
            return to_rgb(ImageOps.exif_transpose(image) if upright and _orientation(image) else image)
    except ImageError:
        raise
    except Exception as error:
        # decoders of damaged files raise whatever comes to their mind: OSError, SyntaxError, struct.error, ...
        raise _damage(error) from error


def image_size(data: bytes, *, upright: bool = True) -> tuple[int, int]:
    """(width, height) as `open_image` would show it, from the header alone."""
    image = _header(data)
    width, height = image.size
    return (height, width) if upright and _orientation(image) in _ROTATED else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB as a viewer would show it: 16-bit scaled down, transparency dropped without its hidden colour changed."""
    if image.mode == "RGB":
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image, np.float64))).convert("RGB")
    return image.convert("RGBA" if image.mode == "P" and "transparency" in image.info else "RGB").convert("RGB")


def check_canvas(width: int, height: int, what: str) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError("too-large", f"{what} would have {width}x{height} pixels, the limit is {MAX_PIXELS}")


def square(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """The image centred on a square of its longer side."""
    side = max(image.size)
    if image.width == image.height:
        return image
    check_canvas(side, side, "the padded square")
    canvas = Image.new("RGB", (side, side), fill)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def padded_tile(image: Image.Image, fill: tuple[int, int, int], size: int) -> Image.Image:
    """`to_tile(square(image, fill), size)`, bit for bit. Pillow resizes along rows before it resizes along columns, so
    the rows of a wide image can be resized before the padding, which is the same colour ever after, is put round."""
    if image.width <= image.height:
        return to_tile(square(image, fill), size, crop=False)
    check_canvas(image.width, image.width, "the padded square")
    rows = image.resize((size, image.height), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (size, image.width), fill)
    canvas.paste(rows, (0, (image.width - image.height) // 2))
    return canvas.resize((size, size), Image.Resampling.BICUBIC)


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image as large as it fits into `size`, centred on black."""
    wide, high = size[0] / image.width, size[1] / image.height
    if wide < high:
        new = size[0], min(math.ceil(image.height * wide), size[1])
    else:
        new = min(math.ceil(image.width * high), size[0]), size[1]
    canvas = Image.new("RGB", size, (0, 0, 0))
    canvas.paste(image.resize(new), ((size[0] - new[0]) // 2, (size[1] - new[1]) // 2))
    return canvas


def tiles(image: Image.Image, size: int) -> list[Image.Image]:
    """Square tiles, row by row."""
    corners = [(left, top) for top in range(0, image.height, size) for left in range(0, image.width, size)]
    return [image.crop((left, top, left + size, top + size)) for left, top in corners]


def to_tile(image: Image.Image, size: int, *, crop: bool) -> Image.Image:
    """One tile by the tower's own processor: shorter side to `size` and the middle cut out, or squashed."""
    if not crop:
        return image.resize((size, size), Image.Resampling.BICUBIC)
    short = min(image.size)
    new = (size, int(size * image.height / short)) if short == image.width else (int(size * image.width / short), size)
    check_canvas(*new, "the resized image")
    resized = image.resize(new, Image.Resampling.BICUBIC)
    left, top = (new[0] - size) // 2, (new[1] - size) // 2
    return resized.crop((left, top, left + size, top + size))


def normalise(parts: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float]) -> Floats:
    """(n, 3, size, size) float32: 0..255 to 0..1, minus mean, over std."""
    # a pixel has 256 values: look the result up instead of computing it (the rounding is that of the processors)
    scaled = (np.arange(256) * (1 / 255)).astype(np.float32)
    table = (scaled[None] - np.asarray(mean, np.float32)[:, None]) / np.asarray(std, np.float32)[:, None]
    out = np.empty((len(parts), 3, parts[0].height, parts[0].width), np.float32)
    for place, part in enumerate(parts):
        for channel, band in enumerate(part.split()):
            # an index of 8 bits is never out of bounds, whatever `mode` says; this one writes without a copy
            np.take(table[channel], np.asarray(band), out=out[place, channel], mode="clip")
    return out


def _header(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageError("too-large", str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError("not-an-image", f"starts with {data[:16]!r}") from error
    except Exception as error:
        raise _damage(error) from error
    check_canvas(*image.size, "the image")
    return image


def _damage(error: Exception) -> ImageError:
    kind = "truncated" if "truncated" in str(error).lower() else "corrupt"
    return ImageError(kind, f"{type(error).__name__}: {error}")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 0))
    except Exception:
        # EXIF that cannot be read turns nothing
        return 0


def _eight_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """16-bit and float grey to 8 bits: by 257 where the values need it, never cut off at 255 as convert() does."""
    top = float(values.max(initial=0.0))
    scale = 1 / 257 if top > 255 else 255.0 if 0 < top <= 1 else 1.0
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
