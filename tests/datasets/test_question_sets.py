"""Sources of questions: merged per image, answered in the form that the prompt asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets._source import LETTER, SHORT_ANSWER
from llavaflow.infra.errors import InputError


def test_vqav2_merges_per_image_and_joins_the_consensus(raw: Any, tmp_path: Path) -> None:
    samples, dropped, reading = raw.read("vqav2", tmp_path / "raw")
    assert [sample.id for sample in samples] == ["000000000001", "000000000002"]
    assert raw.texts(samples[0]) == [f"<image>\nWhat is it?\n{SHORT_ANSWER}", "A cat", "How many?", "2"]
    assert raw.texts(samples[1]) == [f"<image>\nIs it  red?\n{SHORT_ANSWER}", "Yes"]
    assert dropped == {"repeated-id": 1, "empty-question": 1, "no-annotation": 1, "empty-answer": 1}
    assert reading.repairs["image-token-in-text"] == 1 and reading.repairs["annotation-without-question"] == 1
    assert samples[0].images == ("coco/train2017/000000000001.jpg",)


def test_okvqa_teaches_the_unstemmed_answer(raw: Any, tmp_path: Path) -> None:
    assert raw.texts(raw.read("okvqa", tmp_path / "raw")[0][0])[1] == "Surfing"


def test_gqa_keeps_the_n_of_an_image_id(raw: Any, tmp_path: Path) -> None:
    samples, dropped, reading = raw.read("gqa", tmp_path / "raw")
    assert [(sample.images[0], len(sample.turns)) for sample in samples] == [
        ("gqa/images/n5.jpg", 4), ("gqa/images/7.jpg", 2),
    ]  # fmt: skip
    assert dropped == {"no-answer": 1} and reading.repairs["n-before-image-id"] == 3


def test_ocrvqa_takes_train_covers_and_names_gifs_jpg(raw: Any, tmp_path: Path) -> None:
    samples, dropped, reading = raw.read("ocrvqa", tmp_path / "raw")
    assert [sample.images for sample in samples] == [("ocr_vqa/images/1.jpg",)]
    assert dropped == {"not-in-train-split": 1, "answers-do-not-match": 1, "empty-answer": 1}
    assert reading.repairs["gif-named-jpg"] == 1


def test_aokvqa_turns_the_choices_so_that_every_letter_is_right_once(raw: Any, tmp_path: Path) -> None:
    samples, dropped, _ = raw.read("aokvqa", tmp_path / "raw")
    assert len(samples) == 4
    assert raw.texts(samples[0])[0] == f"<image>\nWhich?\nA. a\nB. b\nC. c\nD. d\n{LETTER}"
    assert raw.texts(samples[1])[0] == f"<image>\nWhich?\nA. b\nB. c\nC. d\nD. a\n{LETTER}"
    assert sorted(raw.texts(sample)[1] for sample in samples) == ["A", "B", "C", "D"]
    assert sorted(raw.texts(sample)[3] for sample in samples) == ["A", "B", "C", "D"]
    assert dropped == {"no-answer": 1, "bad-choices": 1, "repeated-id": 1}


def test_ai2d_shows_lettered_diagrams_and_leaves_test_ones_out(raw: Any, tmp_path: Path) -> None:
    samples, dropped, _ = raw.read("ai2d", tmp_path / "raw")
    assert [sample.images[0] for sample in samples] == ["ai2d/images/1.png", "ai2d/abc_images/2.png"]
    assert raw.texts(samples[0]) == [f"<image>\nWhich one?\nA. x\nB. y\n{LETTER}", "B"]
    assert dropped == {"held-out-image": 1, "bad-choices": 1}


LECTURE = "Lines\\nof lecture."


@pytest.mark.parametrize(
    ("form", "asked", "told"),
    [
        ("QCM-LEA", "Which?\nContext: N/A\nOptions: (A) x (B) y\n<image>", f"{LECTURE} Solved. The answer is B."),
        ("CQM-A", "Context: N/A\nQuestion: Which?\nOptions: (A) x (B) y\n<image>", "The answer is B."),
        ("QCML-AL", None, "The answer is B. BECAUSE: Solved."),
        ("QCM-AE", None, f"The answer is B. BECAUSE: {LECTURE}"),
        ("QCLEM-LEPA", None, f"LECTURE: {LECTURE}\nSOLUTION: Solved.\n###\nANSWER: B."),
    ],
)
def test_scienceqa_formats(raw: Any, tmp_path: Path, form: str, asked: str | None, told: str) -> None:
    samples, dropped, _ = raw.read("scienceqa", tmp_path / "raw", options={"format": form})
    assert [sample.id for sample in samples] == ["8", "7"] and dropped == {"not-in-split": 1}
    assert raw.texts(samples[1])[1] == told
    assert asked is None or raw.texts(samples[1])[0] == asked
    assert samples[0].images == () and "A hint." in raw.texts(samples[0])[0]


def test_scienceqa_names_the_formats_and_splits_there_are(raw: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="format 'X-Y' is not INPUT-OUTPUT"):
        raw.read("scienceqa", tmp_path / "raw", options={"format": "X-Y"})
    with pytest.raises(InputError, match="no split 'dev'.*train, test"):
        raw.read("scienceqa", tmp_path / "raw", options={"split": "dev"})
