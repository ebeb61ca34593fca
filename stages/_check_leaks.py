"""Evaluation sets as the gate sees them: the digests of their images and their questions.

An overlap is an error when a record shows an image of the set (same bytes) or asks its question on an image of the
same name; the same question on another image is only a warning, since short questions repeat.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from llavaflow.datasets._images import SUFFIXES
from llavaflow.datasets._raw import rows
from llavaflow.datasets._records import Images
from llavaflow.infra.errors import InputError
from llavaflow.models.templates import IMAGE
from llavaflow.stages._check_record import Record

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
        self.asked: set[tuple[str, str]] = set()
        self.questions: set[str] = set()
        self._seen: dict[str, bool] = {}
        for path in paths:
            self._add(path)

    def overlap(self, record: Record) -> Iterator[tuple[str, str]]:
        """What of a record is in the sets."""
        for name in record.images:
            if self._shown(name):
                yield "in-evaluation-set", f"image {name}"
        stems = {_image_key(name) for name in record.images}
        for _, text in record.turns[::2]:
            question = _first_line(text)
            if any((stem, question) in self.asked for stem in stems):
                yield "in-evaluation-set", f"question {question!r}"
            elif question in self.questions:
                yield "question-in-evaluation-set", question

    def _add(self, path: Path) -> None:
        if path.is_dir():
            files = [entry for entry in path.rglob("*") if entry.suffix.lower() in SUFFIXES]
            self.digests.update(hashlib.sha256(entry.read_bytes()).hexdigest() for entry in files)
        elif path.exists():
            asked = {pair for row in rows(path) for pair in _asked(row)}
            self.asked |= asked
            self.questions |= {question for _, question in asked}
        else:
            raise InputError(f"{path} does not exist. --against takes a file of questions or a folder of images.")
        if not (files if path.is_dir() else asked):
            raise InputError(
                f"nothing to compare with in {path}: it has no {'image' if path.is_dir() else 'row with a question'}."
            )

    def _shown(self, name: str) -> bool:
        if self.images is None or not self.digests:
            return False
        if name not in self._seen:
            data = self.images.load(name)
            self._seen[name] = data is not None and hashlib.sha256(data).hexdigest() in self.digests
        return self._seen[name]


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
