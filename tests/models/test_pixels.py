"""Files that break naive decoders become upright RGB, or an error with its kind."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llavaflow.models import pixels
from llavaflow.models.pixels import ImageError, image_size, open_image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quadrants() -> Image.Image:
    """Wider than high, red at the top left."""
    image = Image.new("RGB", (40, 20), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 20, 10))
    return image


def test_exif_rotation_is_applied_unless_told_otherwise() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(quadrants(), "JPEG", exif=exif, quality=95)
    shown = open_image(data)
    assert shown.size == image_size(data) == (20, 40)
    top_right = shown.getpixel((15, 5))
    assert isinstance(top_right, tuple) and top_right[0] > 200
    assert open_image(data, upright=False).size == image_size(data, upright=False) == (40, 20)


def test_damaged_exif_turns_nothing() -> None:
    data = saved(quadrants(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_image(data).size == (40, 20)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    shown = open_image(saved(quadrants().convert(mode), kind))
    assert shown.mode == "RGB" and shown.size == (40, 20)


def test_palette_with_transparency_keeps_its_colours() -> None:
    data = saved(quadrants().convert("P", palette=Image.Palette.ADAPTIVE), "PNG", transparency=b"\0\xff")
    assert sorted(colour for _, colour in open_image(data).getcolors() or []) == [(0, 0, 255), (255, 0, 0)]


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    values = np.asarray(open_image(saved(Image.fromarray(ramp), "PNG")))[..., 0].ravel()
    assert values.tolist() == list(range(256))


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(data).getpixel((4, 4)) == (255, 0, 0)


def huge_png(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\0IDAT\0\0\0\0"
    )


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "not-an-image"),
        (b"<html>not found</html>", "not-an-image"),
        (saved(quadrants().resize((400, 400)), "JPEG")[:-200], "truncated"),
        (saved(quadrants().resize((400, 400)), "PNG")[:300], "truncated"),
        (huge_png(60_000), "too-large"),
    ],
)
def test_what_cannot_be_shown_names_its_kind(data: bytes, kind: str) -> None:
    with pytest.raises(ImageError) as error:
        open_image(data)
    assert error.value.kind == kind and str(error.value).startswith(f"{kind}: ")


def test_extreme_shapes_do_not_take_the_memory() -> None:
    thread = Image.new("RGB", (60_000, 2))
    with pytest.raises(ImageError, match="padded square would have"):
        pixels.square(thread, (0, 0, 0))
    with pytest.raises(ImageError, match="resized image would have"):
        pixels.to_tile(thread, 336, crop=True)
    assert pixels.to_tile(thread, 14, crop=False).size == (14, 14)


SIZES = [(640, 480), (480, 640), (641, 3), (3, 641), (57, 56), (56, 40), (20, 11), (400, 399), (9, 9)]


@pytest.mark.parametrize("size", SIZES)
def test_a_padded_tile_is_the_square_resized(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(size[0]).integers(0, 255, (size[1], size[0], 3), np.uint8)
    image, fill = Image.fromarray(noise), (122, 116, 104)
    whole = pixels.square(image, fill).resize((56, 56), Image.Resampling.BICUBIC)
    assert pixels.padded_tile(image, fill, 56).tobytes() == whole.tobytes()
