"""Image files as records name them: found under a root, and checked to be what they claim.

Records carry paths of a layout (`coco/train2017/000000000123.jpg`) while a user's folder may start anywhere inside
it, so leading folders are taken off until a file is there. A file whose suffix differs from the record's (OCR-VQA's
`.gif`s that the mixture calls `.jpg`) is found under its own, a COCO image also under its name of 2014, when the same
photographs were split in another way. Paths never lead outside the root.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from llavaflow.infra.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".JPG", ".JPEG", ".PNG")
# the limit at which Pillow, and the training stage with it, refuses to decode
MOST_PIXELS = 178_956_970
FORMATS = {
    "JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg", ".mpo"), "PNG": (".png",), "GIF": (".gif",),
    "WEBP": (".webp",), "BMP": (".bmp",), "TIFF": (".tif", ".tiff"), "JPEG2000": (".jp2", ".j2k"), "AVIF": (".avif",),
}  # fmt: skip

_COCO_2017 = re.compile(r"\d{12}\.jpg")
_SPLITS_2014 = ("train2014", "val2014")

_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)

# why an image cannot be used, by kind
FAULTS = {
    "missing-image": "the file is not under the image folder",
    "broken-image": "the file does not decode to the end",
    "image-too-large": f"more than {MOST_PIXELS:,} pixels",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What a look at an image found; `fault` is a key of FAULTS or None.

    Width and height are those of the image as it is shown: upright, by its EXIF orientation.
    """

    width: int = 0
    height: int = 0
    format: str = ""
    fault: str | None = None
    detail: str = ""

    def fits(self, name: str) -> bool:
        """Whether the suffix of a name says what the file is."""
        return PurePosixPath(name).suffix.lower() in FORMATS.get(self.format, ())


class ImageFolder:
    """Image files under a root (or the first of several), found by the path that a record uses.

    A folder is listed once.
    """

    def __init__(self, root: Path, *others: Path) -> None:
        self.root = root
        self._roots = (root, *others)
        self._names: dict[Path, frozenset[str]] = {}

    def find(self, name: str) -> Path | None:
        """The file of an image name, or None."""
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".")]
        if not parts or ".." in parts:
            return None
        for folder in self._folders(parts):
            if parts[-1] in self._listing(folder):
                return folder / parts[-1]
        return self._under_other_suffix(parts) or self._of_2014(parts)

    def load(self, name: str) -> bytes | None:
        """The bytes of an image, or None when it is not there."""
        path = self.find(name)
        try:
            return path.read_bytes() if path else None
        except OSError as error:
            raise InputError(f"cannot read the image {path}: {error.strerror}.") from error

    def _under_other_suffix(self, parts: list[str]) -> Path | None:
        stem = PurePosixPath(parts[-1]).stem
        for folder in self._folders(parts):
            names = self._listing(folder)
            for suffix in SUFFIXES:
                if stem + suffix in names:
                    return folder / (stem + suffix)
        return None

    def _of_2014(self, parts: list[str]) -> Path | None:
        """A COCO image under `train2014/COCO_train2014_<id>.jpg` or the same of val2014."""
        if not _COCO_2017.fullmatch(parts[-1]):
            return None
        for split in _SPLITS_2014:
            name = f"COCO_{split}_{parts[-1]}"
            for folder in self._folders([*parts[:-2], split, name]):
                if name in self._listing(folder):
                    return folder / name
        return None

    def _folders(self, parts: list[str]) -> Iterator[Path]:
        """Where a path may be: under each root, with fewer and fewer of its leading folders."""
        for root in self._roots:
            for start in range(len(parts)):
                yield root.joinpath(*parts[start:-1])

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = frozenset(entry.name for entry in entries if _is_file(entry))
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Not a folder that is named like an image, nor a link that leads nowhere."""
    try:
        return entry.is_file()
    except OSError:  # a link to itself, say
        return False


def probe(data: bytes, *, decode: bool = True) -> Probe:
    """Size and format of an image, and whether it decodes to its last row."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    return Probe(width=width, height=height, fault="image-too-large", detail=f"{width}x{height}")
                if decode:
                    image.load()
                if _lies_on_its_side(image):
                    width, height = height, width
                return Probe(width=width, height=height, format=image.format or "")
        except UnidentifiedImageError:
            return Probe(fault="broken-image", detail="no known image format")
        except Image.DecompressionBombError as error:
            return Probe(fault="image-too-large", detail=str(error))
        except Exception as error:  # a broken file may raise anything out of a decoder
            return Probe(fault="broken-image", detail=f"{type(error).__name__}: {error}"[:120])


def _lies_on_its_side(image: Image) -> bool:
    """Whether the EXIF orientation turns the image by a quarter, so that its sides change places."""
    try:
        return image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
    except Exception:  # EXIF that cannot be read turns nothing
        return False


def shard_name(name: str) -> str:
    """The name under which an image is stored: relative, one suffix, no dots elsewhere."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part.replace(".", "_") for part in path.parent.parts if part not in ("/", ".", "..")]
    suffix = path.suffix if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp") else ".jpg"
    return "/".join([*parts, path.stem.replace(".", "_") + suffix.lower()])
