"""DocVQA train: questions on scanned pages, merged to one conversation per page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from llavaflow.datasets._merge import MERGE_DROPS, Asked, Merge
from llavaflow.datasets._raw import find, rows
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import SHORT_ANSWER, Reading, Source, rejected

FILES = ("train_v1.0_withQT.json", "train_v1.0.json", "train*.json", "*.json", "*.jsonl")


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per page; of several accepted answers the first is taught."""
    file = find(path, *FILES, source="docvqa")

    def build(raw: dict[str, Any]) -> Asked | Sample:
        number = str(raw["questionId"] if "questionId" in raw else raw["question_id"])
        answers = raw.get("answers", raw.get("answer"))
        if not answers:
            return rejected("docvqa", f"question/{number}", "no-answer")
        asked = reading.text(raw["question"]).removesuffix(SHORT_ANSWER).rstrip()
        return Asked(number, PurePosixPath(raw["image"]).name, asked, reading.text(_first(answers)))

    merge = Merge(
        source="docvqa",
        prompt=SHORT_ANSWER,
        image_path=lambda image: f"docvqa/train/documents/{image}",
        sample_id=lambda image: PurePosixPath(image).stem,
    )
    yield from merge.samples(reading.each("docvqa", file, rows(file, "data"), build))


def _first(answers: Any) -> Any:
    return answers[0] if isinstance(answers, list) else answers


SOURCE = Source(
    name="docvqa",
    title="DocVQA 1.0 (single page), train",
    origin=("https://www.docvqa.org/datasets/docvqa", "https://rrc.cvc.uab.es/?ch=17 (sign-in)"),
    licence="annotations CC BY 4.0; pages: UCSF Industry Documents Library",
    layout="""train_v1.0_withQT.json   {"data": [{questionId, question, image: documents/<name>.png, answers: [..]}]}
or one record per line: {question_id, question, image, answer: [..]}
documents/<name>.png""",
    rule="all questions on one page become one conversation; the first accepted answer",
    read=read,
    expected={"questions": 39_463, "images": 10_194},
    images="docvqa/train/documents",
    prompt=SHORT_ANSWER,
    drops={**MERGE_DROPS, "no-answer": "a question of the test split, whose answers are withheld"},
)
