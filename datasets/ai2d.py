"""AI2D: multiple choice on textbook diagrams, merged to one conversation per diagram, test diagrams left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any

from llavaflow.datasets._merge import MERGE_DROPS, Asked, Merge
from llavaflow.datasets._raw import Bad, load, rows
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import LETTER, Reading, Source, rejected
from llavaflow.infra.errors import InputError


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per diagram; questions on letters drawn into a diagram show its lettered version."""
    merge = Merge(
        source="ai2d",
        prompt=LETTER,
        image_path=lambda image: f"ai2d/{image}",
        sample_id=lambda image: str(PurePosixPath(image).with_suffix("")),
    )
    yield from merge.samples(_flat(path, reading) if path.is_file() else _official(path, reading))


def _official(path: Path, reading: Reading) -> Iterator[Asked | Sample]:
    """The authors' layout: one JSON file of questions per diagram."""
    folder = next((place for place in (path / "questions", path / "ai2d/questions") if place.is_dir()), None)
    if folder is None:
        raise InputError(f"no folder questions/ in {path}. `pipeline show source:ai2d` prints the layout.")
    listed = folder.parent / "ai2d_test_ids.csv"
    held_out = _listed(listed) if listed.exists() else set()
    for file in sorted(folder.glob("*.json")):
        asked = _questions(file, load(file))

        def build(item: tuple[str, str, dict[str, Any]]) -> Asked | Sample:
            name, text, raw = item
            number = str(raw["questionId"])
            if PurePosixPath(name).stem in held_out:
                return rejected("ai2d", f"question/{number}", "held-out-image")
            return _asked(number, name, text, raw, reading)

        yield from reading.each("ai2d", file, asked, build)


def _listed(file: Path) -> set[str]:
    try:
        return set(file.read_text("utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}. It lists the test diagrams, one id per line.") from error


def _questions(file: Path, document: Any) -> list[Any]:
    """(image, text, rest) of every question of a diagram."""
    asked = document.get("questions", {}) if isinstance(document, dict) else None
    if not isinstance(asked, dict):
        return [Bad(1, "a mapping with the mapping 'questions' is expected")]
    image = document.get("imageName", file.name.removesuffix(".json"))
    return [(image, text, raw) for text, raw in asked.items()]


def _asked(number: str, image: str, text: str, raw: dict[str, Any], reading: Reading) -> Asked | Sample:
    choices = [reading.text(choice) for choice in raw["answerTexts"]]
    right = raw["correctAnswer"]
    if not all(choices) or not 0 <= right < len(choices):
        return rejected("ai2d", f"question/{number}", "bad-choices")
    options = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    folder = "abc_images" if raw.get("abcLabel") else "images"
    return Asked(number, f"{folder}/{image}", "\n".join([reading.text(text), *options]), ascii_uppercase[right])


def _flat(path: Path, reading: Reading) -> Iterator[Asked | Sample]:
    """One row per question, options already in its text: {image, question, question_id, answer: letter}."""

    def build(raw: dict[str, Any]) -> Asked:
        text = reading.text(raw["question"]).removesuffix(LETTER).rstrip()
        answer = reading.text(raw["answer"])
        return Asked(f"{raw['image']}/{raw['question_id']}", raw["image"], text, answer)

    yield from reading.each("ai2d", path, rows(path), build)


SOURCE = Source(
    name="ai2d",
    title="AI2D, train",
    origin=("https://prior.allenai.org/projects/diagram-understanding",),
    licence="CC BY-SA",
    layout="""questions/<image>.json   {imageName, questions: {text: {questionId, answerTexts, correctAnswer}}}
ai2d_test_ids.csv        ids of the test diagrams, one per line   (optional)
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
)
