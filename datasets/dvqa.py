"""DVQA train: template questions on generated bar charts, merged to one conversation per chart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from llavaflow.datasets._merge import MERGE_DROPS, Asked, Merge
from llavaflow.datasets._raw import find, rows
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import SHORT_ANSWER, Reading, Source, capitalise


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per chart."""
    file = find(path, "train_qa.json", "qa/train_qa.json", "*qa*.json", source="dvqa")

    def build(raw: dict[str, Any]) -> Asked:
        answer = capitalise(reading.text(raw["answer"]))
        return Asked(str(raw["question_id"]), str(raw["image"]), reading.text(raw["question"]), answer)

    merge = Merge(
        source="dvqa",
        prompt=SHORT_ANSWER,
        image_path=lambda image: f"dvqa/images/{image}",
        sample_id=lambda image: PurePosixPath(image).stem,
    )
    yield from merge.samples(reading.each("dvqa", file, rows(file), build))


SOURCE = Source(
    name="dvqa",
    title="DVQA, train",
    origin=("https://github.com/kushalkafle/DVQA_dataset",),
    licence="CC BY-NC 4.0",
    layout="""train_qa.json   [{image, question, answer, question_id, template_id, answer_bbox}]
images/<image>""",
    rule="all questions on one chart become one conversation; mixtures sample a part of them",
    read=read,
    expected={"questions": 2_325_316, "images": 200_000},
    images="dvqa/images",
    prompt=SHORT_ANSWER,
    drops=MERGE_DROPS,
)
