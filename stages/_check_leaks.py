"""Evaluation sets as the gate sees them: the digests of their images and their questions.

An overlap is an error when a record shows an image of the set (same bytes) or asks its question on an image of the
same name. It is only a warning when an image merely looks the same (perceptual hash and colours: scaled or compressed
anew), or when the question is asked on another image, since short questions repeat.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from llavaflow.datasets._images import SUFFIXES
from llavaflow.datasets._raw import Bad, rows
from llavaflow.datasets._records import Images
from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.models.pixels import ImageError, open_image
from llavaflow.models.templates import IMAGE
from llavaflow.stages._check_record import Record
from llavaflow.stages.filters._near import Lookup, fingerprint, prints

# of 64: as strict as the contamination filter
NEAR_BITS = 2
_COCO = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)")
_SPACE = re.compile(r"\s+")


class EvaluationSets:
    """Files of questions ({image, text or question}) and folders of images that training must not see.

    Files are read in the forms in which benchmarks are published: JSON lines, a list, a mapping by id (GQA), or a
    document with its list under `questions` or `data` (VQA, DocVQA). Raises InputError for one that gives nothing.
    """

    def __init__(self, paths: Iterable[Path], images: Images | None) -> None:
        self.images = images
        self.digests: set[str] = set()
        self._prints: list[Json] = []
        self.asked: set[tuple[str, str]] = set()
        self.questions: set[str] = set()
        self._seen: dict[str, str | None] = {}
        for path in paths:
            self._add(path)

    def overlap(self, record: Record) -> Iterator[tuple[str, str]]:
        """What of a record is in the sets."""
        for name in record.images:
            if kind := self._kind(name):
                yield kind, f"image {name}"
        stems = {_image_key(name) for name in record.images}
        for _, text in record.turns[::2]:
            question = _first_line(text)
            if any((stem, question) in self.asked for stem in stems):
                yield "in-evaluation-set", f"question {question!r}"
            elif question in self.questions:
                yield "question-in-evaluation-set", question

    def _add(self, path: Path) -> None:
        if path.is_dir() and self.images is None:
            raise InputError(f"to compare with the images in {path}, give the folder of the training images (--images)")
        if path.is_dir():
            files = [entry for entry in path.rglob("*") if entry.suffix.lower() in SUFFIXES and entry.is_file()]
            for entry in files:
                self._add_image(entry.read_bytes())
        elif path.exists():
            asked = {pair for row in _whole(path) for pair in _asked(row)}
            self.asked |= asked
            self.questions |= {question for _, question in asked}
        else:
            raise InputError(f"{path} does not exist. --against takes a file of questions or a folder of images.")
        if not (files if path.is_dir() else asked):
            raise InputError(
                f"nothing to compare with in {path}: it has no {'image' if path.is_dir() else 'row with a question'}."
            )

    def _add_image(self, data: bytes) -> None:
        self.digests.add(hashlib.sha256(data).hexdigest())
        with suppress(ImageError):
            self._prints.append(fingerprint(open_image(data)))

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(prints(self._prints), NEAR_BITS)

    def _kind(self, name: str) -> str | None:
        """What is wrong with showing an image, by its bytes and by its looks."""
        if self.images is None or not self.digests:
            return None
        if name not in self._seen:
            self._seen[name] = self._compared(self.images.load(name))
        return self._seen[name]

    def _compared(self, data: bytes | None) -> str | None:
        if data is None:
            return None
        if hashlib.sha256(data).hexdigest() in self.digests:
            return "in-evaluation-set"
        try:
            image = prints([fingerprint(open_image(data))])
        except ImageError:
            return None
        return "like-evaluation-image" if self._lookup.has_like(image) else None


def _whole(path: Path) -> Iterator[Any]:
    """The rows of a question file; InputError for one that cannot be read, since what it asks would not be compared."""
    for row in rows(path):
        if isinstance(row, Bad):
            raise InputError(f"{path}, line {row.line}: {row.reason}. Correct the file, or fetch it again.")
        yield row


def _asked(row: Any) -> Iterator[tuple[str, str]]:
    """(image name, question) of a row of a question file; the items of a mapping come as (key, value)."""
    held = row[1] if isinstance(row, tuple) else row
    if isinstance(held, list):
        for item in held:
            yield from _asked(item)
    elif isinstance(held, dict):
        question = _first_line(str(held.get("text") or held.get("question") or held.get("query") or ""))
        names = (held.get(key) for key in ("image", "image_id", "imageId", "imgname"))
        if question:
            yield _image_key(str(next((name for name in names if name), ""))), question


def _image_key(name: str) -> str:
    """The name of an image as all its users write it: COCO's number without zeros, folder, split and suffix."""
    stem = PurePosixPath(name).stem
    match = _COCO.fullmatch(stem)
    return match.group(1) if match else stem


def _first_line(text: str) -> str:
    """A question without image token and response-format line, in lower case."""
    plain = text.replace(IMAGE, "").strip().split("\n", 1)[0]
    return _SPACE.sub(" ", plain).lower()
