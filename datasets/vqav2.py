"""VQAv2 train: short answers by ten people on COCO images, merged to one conversation per image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llavaflow.datasets._merge import VQA_DROPS, VQA_REPAIRS, coco_merge, most_given, vqa_pairs
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import SHORT_ANSWER, Reading, Source

QUESTIONS = ("v2_OpenEnded_mscoco_train2014_questions.json", "*[Qq]uestions*.json")
ANNOTATIONS = ("v2_mscoco_train2014_annotations.json", "*[Aa]nnotations*.json")


def answer(note: dict[str, Any]) -> str:
    """The published consensus answer, or what most of the ten people said."""
    return str(note.get("multiple_choice_answer") or most_given(note["answers"]))


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per image, in the order of the question file."""
    pairs = vqa_pairs(path, reading, source="vqav2", files=(QUESTIONS, ANNOTATIONS), answer=answer)
    yield from coco_merge("vqav2", SHORT_ANSWER).samples(pairs)


SOURCE = Source(
    name="vqav2",
    title="VQA v2.0, balanced real images, train",
    origin=("https://visualqa.org/download.html", "images: http://images.cocodataset.org/zips/train2017.zip"),
    licence="annotations CC BY 4.0; images: terms of the Flickr photographs in COCO",
    layout="""v2_OpenEnded_mscoco_train2014_questions.json   {"questions": [{question_id, image_id, question}]}
v2_mscoco_train2014_annotations.json           {"annotations": [{question_id, multiple_choice_answer, answers}]}""",
    rule="all questions of one image become one conversation; the answer is the consensus, first letter upper case",
    read=read,
    expected={"questions": 443_757, "images": 82_783, "samples": 82_783},
    images="coco/train2017",
    prompt=SHORT_ANSWER,
    drops=VQA_DROPS,
    repairs=VQA_REPAIRS,
)
