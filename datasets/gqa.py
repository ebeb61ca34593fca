"""GQA train, balanced: compositional questions on Visual Genome images, merged to one conversation per image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llavaflow.datasets._merge import MERGE_DROPS, Asked, Merge
from llavaflow.datasets._raw import elements, find
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import SHORT_ANSWER, Reading, Source, capitalise, rejected

FILES = ("train_balanced_questions.json", "*balanced_questions.json", "*questions*.json")


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per image, in the order of the question file."""
    file = find(path, *FILES, source="gqa")

    def build(item: tuple[str, Any]) -> Asked | Sample:
        number, raw = item[0], item[1]
        image = raw["imageId"]
        if type(image) is not str:
            reading.repairs["number-as-text"] += 1
        elif image.startswith("n"):
            reading.repairs["n-before-image-id"] += 1
        answer = raw.get("answer")
        if answer is None:
            return rejected("gqa", f"question/{number}", "no-answer")
        return Asked(number, str(image), reading.text(raw["question"]), capitalise(reading.text(answer)))

    merge = Merge(
        source="gqa",
        prompt=SHORT_ANSWER,
        image_path=lambda image: f"gqa/images/{image}.jpg",
        sample_id=lambda image: image,
    )
    yield from merge.samples(reading.each("gqa", file, elements(file), build))


SOURCE = Source(
    name="gqa",
    title="GQA 1.2, train_balanced",
    origin=("https://cs.stanford.edu/people/dorarad/gqa/download.html",),
    licence="annotations CC BY 4.0; images: Visual Genome, CC BY 4.0",
    layout="""train_balanced_questions.json   {question id: {imageId, question, answer, fullAnswer, ...}}
images/<imageId>.jpg""",
    rule="all questions of one image become one conversation; the short answer, first letter upper case",
    read=read,
    expected={"questions": 943_000, "images": 72_140, "samples": 72_140},
    images="gqa/images",
    prompt=SHORT_ANSWER,
    drops={**MERGE_DROPS, "no-answer": "a question of a split whose answers are withheld"},
    repairs={"n-before-image-id": "an image id with a leading n (an image from outside Visual Genome): kept as it is"},
)
