"""A picture on a page or a terminal: small, upright, and something plain where it cannot be decoded."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.text import Text

PAGE_SIDE_PX = 640
COLUMNS = 36


def as_data_url(data: bytes) -> str | None:
    """A JPEG of at most 640 pixels as a data: URL; None when the picture does not decode."""
    image = _small(data, PAGE_SIDE_PX, PAGE_SIDE_PX)
    if image is None:
        return None
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def as_blocks(data: bytes) -> Text:
    """The picture in characters: each shows two pixels, one above the other, in the colours of a terminal."""
    from rich.text import Text

    image = _small(data, COLUMNS, COLUMNS)
    if image is None:
        return Text("(does not decode)", style="red")
    text = Text(no_wrap=True)
    for top in range(0, image.height, 2):
        for left in range(image.width):
            upper = image.getpixel((left, top))
            lower = image.getpixel((left, min(top + 1, image.height - 1)))
            text.append("▀", style=f"rgb{upper} on rgb{lower}".replace(" ", "").replace("on", " on "))
        text.append("\n")
    return text


def _small(data: bytes, width: int, height: int) -> Image | None:
    from llavaflow.models.pixels import ImageError, open_image

    try:
        image = open_image(data)
    except ImageError:
        return None
    image.thumbnail((width, height))
    return image
