"""A-OKVQA train: multiple choice on COCO images, repeated with the choices in turned order.

The paper repeats each question k times, k its number of choices, to make up for scarce multiple-choice data. Copy j
turns the choices by j places, so that over the copies every letter is right once. Questions are merged per image
first: that is how 17,056 questions become 4 x 16,540 = 66,160 records.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from llavaflow.datasets._raw import find, rows
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import LETTER, Reading, Source, coco_image, dialogue, rejected


class Choice(NamedTuple):
    """One multiple-choice question."""

    id: str
    image: int
    question: str
    choices: tuple[str, ...]
    right: int
    split: str


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """k samples per image, in the order of the file."""
    file = find(path, "aokvqa_v1p0_train.json", "*train*.json", "*aokvqa*.json", "*.json", source="aokvqa")
    groups: dict[int, list[Choice]] = {}
    seen: set[str] = set()
    for item in reading.each("aokvqa", file, rows(file), lambda raw: _choice(raw, reading, seen)):
        if isinstance(item, Sample):
            yield item
        else:
            groups.setdefault(item.image, []).append(item)
    for image, asked in groups.items():
        for copy in range(max(len(item.choices) for item in asked)):
            yield Sample(
                id=f"{image:012d}_{copy}",
                source="aokvqa",
                images=(coco_image(image, f"{asked[0].split}2017"),),
                turns=dialogue([turned(item, copy) for item in asked], LETTER),
                parents=tuple(f"aokvqa:question/{item.id}" for item in asked),
            )


def turned(item: Choice, by: int) -> tuple[str, str]:
    """The question with its choices turned by some places, and the letter that is then right."""
    count = len(item.choices)
    order = [item.choices[(place + by) % count] for place in range(count)]
    options = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, order, strict=False)]
    return "\n".join([item.question, *options]), ascii_uppercase[(item.right - by) % count]


def _choice(raw: dict[str, Any], reading: Reading, seen: set[str]) -> Choice | Sample:
    number = str(raw["question_id"])
    if number in seen:
        return rejected("aokvqa", f"question/{number}", "repeated-id")
    seen.add(number)
    right = raw.get("correct_choice_idx")
    if right is None:
        return rejected("aokvqa", f"question/{number}", "no-answer")
    choices = tuple(reading.text(choice) for choice in raw["choices"])
    asked = reading.text(raw["question"])
    if not asked or not all(choices) or not 0 <= right < len(choices) <= len(ascii_uppercase):
        return rejected("aokvqa", f"question/{number}", "bad-choices")
    return Choice(number, int(raw["image_id"]), asked, choices, int(right), raw.get("split", "train"))


SOURCE = Source(
    name="aokvqa",
    title="A-OKVQA 1.0, train, multiple choice",
    origin=("https://allenai.org/project/a-okvqa/home", "images: http://images.cocodataset.org/zips/train2017.zip"),
    licence="annotations Apache-2.0; images: terms of the Flickr photographs in COCO",
    layout="""aokvqa_v1p0_train.json   [{question_id, image_id, question, choices: [..], correct_choice_idx}]""",
    rule="questions merged per image, then k copies (k choices) with the choices turned by one place each",
    read=read,
    expected={"questions": 17_056, "images": 16_540, "samples": 66_160},
    images="coco/train2017",
    prompt=LETTER,
    drops={
        "no-answer": "a question of the test split, whose answers are withheld",
        "bad-choices": "an empty question or choice, or a right choice that is not among them",
    },
)
