"""OCR-VQA train: questions on book covers, one conversation per cover."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llavaflow.datasets._raw import elements, find
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import SHORT_ANSWER, Reading, Source, dialogue, rejected

TRAIN = 1


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per cover of the train split, in file order."""
    file = find(path, "dataset.json", "*.json", source="ocrvqa")
    seen: set[str] = set()

    def build(item: tuple[str, Any]) -> Sample:
        number, raw = item[0].strip(), item[1]
        if number in seen:
            return rejected("ocrvqa", f"book/{number}", "repeated-id")
        seen.add(number)
        if int(raw.get("split", TRAIN)) != TRAIN:
            return rejected("ocrvqa", f"book/{number}", "not-in-train-split")
        if len(raw["questions"]) != len(raw["answers"]):
            return rejected("ocrvqa", f"book/{number}", "answers-do-not-match")
        return _sample(number, raw, reading)

    yield from reading.each("ocrvqa", file, elements(file), build)


def _sample(number: str, raw: dict[str, Any], reading: Reading) -> Sample:
    pairs = []
    for asked, answer in zip(raw["questions"], raw["answers"], strict=True):
        pair = (reading.text(asked), reading.text(answer))
        if all(pair):
            pairs.append(pair)
        else:
            reading.repairs["empty-pair-left-out"] += 1
    if not pairs:
        return rejected("ocrvqa", f"book/{number}", "empty-answer")
    if str(raw.get("imageURL", "")).lower().endswith(".gif"):
        reading.repairs["gif-named-jpg"] += 1
    return Sample(
        id=number,
        source="ocrvqa",
        images=(f"ocr_vqa/images/{number}.jpg",),
        turns=dialogue(pairs, SHORT_ANSWER),
        parents=(f"ocrvqa:book/{number}",),
    )


SOURCE = Source(
    name="ocrvqa",
    title="OCR-VQA-200K, train",
    origin=("https://ocr-vqa.github.io/", "images: the imageURL of each record (most are dead since 2024)"),
    licence="annotations: research use; cover images belong to their publishers",
    layout="""dataset.json   {id: {imageURL, questions: [..], answers: [..], split: 1 train, 2 val, 3 test}}
images/<id>.jpg""",
    rule="all questions of one cover become one conversation; the mixture samples 80,000 of them",
    read=read,
    expected={"records": 207_572, "samples in mix665k": 80_000},
    images="ocr_vqa/images",
    prompt=SHORT_ANSWER,
    drops={
        "not-in-train-split": "a cover of the validation or test split",
        "answers-do-not-match": "not as many answers as questions",
        "empty-answer": "no question with an answer is left",
    },
    repairs={
        "empty-pair-left-out": "one question or answer of the cover is empty",
        "gif-named-jpg": "the address ends in .gif: the image path says .jpg, and the file is found under either",
    },
)
