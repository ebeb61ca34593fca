"""Evaluation sets as the gate sees them: the digests of their images and their questions.

An overlap is an error when a record shows an image of the set (same bytes) or asks its question on an image of the
same name; the same question on another image is only a warning, since short questions repeat.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from llavaflow.datasets._images import SUFFIXES, ImageFolder
from llavaflow.datasets._raw import Bad, rows
from llavaflow.infra.errors import InputError
from llavaflow.models.templates import IMAGE
from llavaflow.stages._check_record import Record

_SPACE = re.compile(r"\s+")


class EvaluationSets:
    """Files of questions ({image, text or question}) and folders of images that training must not see."""

    def __init__(self, paths: Iterable[Path], images: ImageFolder | None) -> None:
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
        stems = {PurePosixPath(name).stem for name in record.images}
        for _, text in record.turns[::2]:
            question = _first_line(text)
            if any((stem, question) in self.asked for stem in stems):
                yield "in-evaluation-set", f"question {question!r}"
            elif question in self.questions:
                yield "question-in-evaluation-set", question

    def _add(self, path: Path) -> None:
        if path.is_dir():
            files = (entry for entry in path.rglob("*") if entry.suffix in SUFFIXES)
            self.digests.update(hashlib.sha256(entry.read_bytes()).hexdigest() for entry in files)
            return
        if not path.exists():
            raise InputError(f"{path} does not exist. --against takes a file of questions or a folder of images.")
        for row in rows(path):
            if isinstance(row, Bad) or not isinstance(row, dict):
                continue
            question = _first_line(str(row.get("text") or row.get("question") or ""))
            image = PurePosixPath(str(row.get("image") or row.get("image_id") or "")).stem
            if question:
                self.asked.add((image, question))
                self.questions.add(question)

    def _shown(self, name: str) -> bool:
        if self.images is None or not self.digests:
            return False
        if name not in self._seen:
            path = self.images.find(name)
            self._seen[name] = bool(path) and hashlib.sha256(path.read_bytes()).hexdigest() in self.digests  # type: ignore[union-attr]
        return self._seen[name]


def _first_line(text: str) -> str:
    """A question without image token and response-format line, in lower case."""
    plain = text.replace(IMAGE, "").strip().split("\n", 1)[0]
    return _SPACE.sub(" ", plain).lower()
