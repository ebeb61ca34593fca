"""AI2D: multiple choice on textbook diagrams, merged to one conversation per diagram, test diagrams left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any

import orjson

from llavaflow.datasets._merge import MERGE_DROPS, Asked, Merge
from llavaflow.datasets._raw import BYTE_ORDER_MARK, Bad, open_raw, rows, search
from llavaflow.datasets._records import next_rows
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import LETTER, Reading, Source, rejected
from llavaflow.infra.errors import InputError

HELD_OUT = "ai2d_test_ids.csv"


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per diagram; questions on letters drawn into a diagram show its lettered version."""
    merge = Merge(
        source="ai2d",
        prompt=LETTER,
        image_path=lambda image: f"ai2d/{image}",
        sample_id=lambda image: str(PurePosixPath(image).with_suffix("")),
    )
    yield from merge.samples(_flat(path, reading) if _has_rows(path) else _official(path, reading))


def _has_rows(path: Path) -> bool:
    """Whether a file holds one row per question (rather than all questions on one diagram)."""
    if not path.is_file():
        return False
    first = next(iter(_rows(path)), None)
    return not (isinstance(first, tuple) or path.parent.name == "questions")


def _official(path: Path, reading: Reading) -> Iterator[Asked | Sample]:
    """The authors' layout: one JSON file of questions per diagram."""
    files = [path] if path.is_file() else _files(path)
    beside = files[0].parent.parent
    listed = next(filter(None, (search(folder, HELD_OUT, source="ai2d") for folder in (beside, beside.parent))), None)
    held_out = _listed(listed) if listed else set()
    reading.repairs["no-list-of-test-diagrams"] += listed is None
    for file in files:

        def build(item: tuple[str, str, dict[str, Any]]) -> Asked | Sample:
            name, text, raw = item
            number = str(raw["questionId"])
            if PurePosixPath(name).stem in held_out:
                return rejected("ai2d", f"question/{number}", "held-out-image")
            return _asked(number, name, text, raw, reading)

        yield from reading.each("ai2d", file, _questions(file), build)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"{path} does not exist. Give the folder that holds the raw files of ai2d.")
    folders = [place for place in (path / "questions", path / "ai2d/questions", path) if place.is_dir()]
    for folder in folders:
        if found := sorted([*folder.glob("*.json"), *folder.glob("*.json.gz")]):
            return found
    raise InputError(f"no folder questions/ with a .json per diagram in {path}. See `pipeline show source:ai2d`.")


def _listed(file: Path) -> set[str]:
    with open_raw(file) as stream:
        data = stream.read()
    try:
        return {name.strip('",') for name in data.decode("utf-8-sig").split()}
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {file}: {error}. It lists the test diagrams, one id per line.") from error


def _questions(file: Path) -> list[Any]:
    """(image, text, rest) of every question of a diagram; one Bad where the file is not of this form."""
    with open_raw(file) as stream:
        data = stream.read().removeprefix(BYTE_ORDER_MARK)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return [Bad(error.lineno, f"not JSON: {error.msg}")]
    asked = document.get("questions", {}) if isinstance(document, dict) else None
    if not isinstance(asked, dict):
        return [Bad(1, "a mapping with the mapping 'questions' is expected")]
    image = document.get("imageName", file.name.removesuffix(".gz").removesuffix(".json"))
    return [(image, text, raw) for text, raw in asked.items()]


def _asked(number: str, image: str, text: str, raw: dict[str, Any], reading: Reading) -> Asked | Sample:
    folder = "abc_images" if raw.get("abcLabel") else "images"
    asked = _lettered(text, raw["answerTexts"], int(raw["correctAnswer"]), reading)
    fault = rejected("ai2d", f"question/{number}", "bad-choices")
    return Asked(number, f"{folder}/{image}", *asked) if asked else fault


def _lettered(text: Any, choices: list[Any], right: int, reading: Reading) -> tuple[str, str] | None:
    """The question over its lettered choices, and the letter of the right one; None when they do not fit."""
    texts = [reading.text(choice) for choice in choices]
    if not all(texts) or not 0 <= right < len(texts) <= len(ascii_uppercase):
        return None
    options = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, texts, strict=False)]
    return "\n".join([reading.text(text), *options]), ascii_uppercase[right]


def _flat(path: Path, reading: Reading) -> Iterator[Asked | Sample]:
    """One row per question, with its options in the text and a letter as answer, or with a list of options."""

    def build(raw: dict[str, Any]) -> Asked | Sample:
        image = str(raw["image"])
        number = f"{image}/{raw.get('question_id', reading.records - 1)}"
        if "options" in raw:
            asked = _lettered(raw["question"], raw["options"], int(raw["answer"]), reading)
            return Asked(number, image, *asked) if asked else rejected("ai2d", f"question/{number}", "bad-choices")
        text = reading.text(raw["question"]).removesuffix(LETTER).rstrip()
        return Asked(number, image, text, reading.text(raw["answer"]))

    yield from reading.each("ai2d", path, _rows(path), build)


def _rows(path: Path) -> Iterator[Any]:
    return next_rows(path) if path.suffix == ".parquet" else rows(path)


SOURCE = Source(
    name="ai2d",
    title="AI2D, train",
    origin=("https://prior.allenai.org/projects/diagram-understanding",),
    licence="CC BY-SA",
    layout="""questions/<image>.json   {imageName, questions: {text: {questionId, answerTexts, correctAnswer}}}
ai2d_test_ids.csv        ids of the test diagrams, one per line   (optional)
or rows, .jsonl or .parquet: {question, options: [..], answer: place of the right one, image}
images/<image>, abc_images/<image>   (the second with letters drawn over the labels)""",
    rule="all questions on one diagram become one conversation, options lettered A, B, ...; the letter is the answer",
    read=read,
    expected={"questions": 15_501, "images": 4_903},
    images="ai2d",
    prompt=LETTER,
    drops={
        **MERGE_DROPS,
        "held-out-image": "the diagram is listed in ai2d_test_ids.csv",
        "bad-choices": "an empty choice, or a right choice that is not among them",
    },
    repairs={"no-list-of-test-diagrams": "no ai2d_test_ids.csv beside the questions: test diagrams are not left out"},
)
