"""The questions of an evaluation: read from the world's held-out folders, in every variant of the image, with a ledger.

A variant is a way to show the picture: `images` as it is, `blank` a grey picture of the same size, `shuffled` the
picture of another question. What a model gains over the last two is what it sees. Answers are appended to a ledger as
they come, so an evaluation that is killed goes on with the questions that are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from llavaflow.datasets.benchmarks._files import rows
from llavaflow.infra.errors import StageFailed
from llavaflow.infra.fingerprint import digest
from llavaflow.stages._jsonl import JsonLines

Variant = Literal["images", "blank", "shuffled"]
QUESTIONS = "questions.jsonl"
IMAGES = "eval/images"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One question in one variant; `shown` is the picture that the model gets, None for none.

    max_new_tokens: how long the answer may be.
    """

    benchmark: str
    variant: Variant
    row: int
    id: str
    text: str
    image: str
    category: str
    shown: str | None
    max_new_tokens: int

    @property
    def key(self) -> str:
        """Names the question within the evaluation; ids do not (TextVQA's is the image's)."""
        return f"{self.benchmark}/{self.variant}/{self.row}"


def questions(root: Path, benchmark: str, variants: Sequence[Variant], seed: int, max_new_tokens: int) -> list[Asked]:
    """The questions of a benchmark in every variant; one without a picture is the same in all of them.

    Raises StageFailed when the questions artifact has none.
    """
    path = root / "eval" / benchmark / QUESTIONS
    if not path.is_file():
        there = ", ".join(sorted(folder.name for folder in (root / "eval").glob("*") if folder.is_dir()))
        raise StageFailed(f"no questions for {benchmark}: looked for {path}; there is {there or 'nothing'}.")
    records = rows(path)
    other = _another_image(filter(None, map(_image, records)), seed)
    return [
        Asked(
            benchmark=benchmark,
            variant=variant,
            row=number,
            id=str(row["question_id"]),
            text=str(row["text"]),
            image=_image(row),
            category=str(row.get("category", "")),
            shown=(other[_image(row)] if variant == "shuffled" else _image(row)) if _image(row) else None,
            max_new_tokens=max_new_tokens,
        )
        for variant in variants
        for number, row in enumerate(records)
    ]


def _image(row: Mapping[str, Any]) -> str:
    """The picture of a question, empty for a question in words alone (half of ScienceQA)."""
    return str(row.get("image") or "")


def _another_image(images: Iterable[str], seed: int) -> dict[str, str]:
    """For every image another one: the next in an order decided by the seed."""
    order = sorted(set(images), key=lambda name: digest([seed, name]))
    return dict(zip(order, order[1:] + order[:1], strict=True))


class Ledger:
    """Answers by question, as JSON lines of [key, answer]; a line cut by a kill never happened."""

    def __init__(self, path: Path) -> None:
        self._lines = JsonLines(path)
        self.answers: dict[str, str] = dict(self._lines.read())

    def __enter__(self) -> Ledger:
        self._lines.__enter__()
        return self

    def add(self, key: str, text: str) -> None:
        self.answers[key] = text
        self._lines.append([key, text])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.__exit__(kind, error, trace)


def as_row(asked: Asked) -> dict[str, object]:
    """The question as it travels to a worker."""
    return asdict(asked)
