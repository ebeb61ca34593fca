"""OK-VQA train: questions that need outside knowledge, on COCO images, merged to one conversation per image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llavaflow.datasets._merge import VQA_DROPS, VQA_REPAIRS, coco_merge, most_given, vqa_pairs
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import SHORT_ANSWER, Reading, Source

QUESTIONS = ("OpenEnded_mscoco_train2014_questions.json", "*[Qq]uestions*.json")
ANNOTATIONS = ("mscoco_train2014_annotations.json", "*[Aa]nnotations*.json")


def answer(note: dict[str, Any]) -> str:
    """What most people said; `answer` is stemmed in this data set, `raw_answer` is as written."""
    answers = note["answers"]
    stem = most_given(answers)
    same = [given for given in answers if given["answer"] == stem and given.get("raw_answer")]
    return most_given(same, "raw_answer") if same else stem


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per image, in the order of the question file."""
    pairs = vqa_pairs(path, reading, source="okvqa", files=(QUESTIONS, ANNOTATIONS), answer=answer)
    yield from coco_merge("okvqa", SHORT_ANSWER).samples(pairs)


SOURCE = Source(
    name="okvqa",
    title="OK-VQA, train",
    origin=("https://okvqa.allenai.org/download.html", "images: http://images.cocodataset.org/zips/train2017.zip"),
    licence="annotations CC BY 4.0; images: terms of the Flickr photographs in COCO",
    layout="""OpenEnded_mscoco_train2014_questions.json   {"questions": [{question_id, image_id, question}]}
mscoco_train2014_annotations.json           {"annotations": [{question_id, answers: [{answer, raw_answer}]}]}""",
    rule="all questions of one image become one conversation; the answer most people gave, first letter upper case",
    read=read,
    expected={"questions": 9_009, "images": 8_998, "samples": 8_998},
    images="coco/train2017",
    prompt=SHORT_ANSWER,
    drops=VQA_DROPS,
    repairs=VQA_REPAIRS,
)
