"""Sources of boxes: RefCOCO in all the shapes it is met in, Visual Genome."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets._source import SHORT_ANSWER
from llavaflow.infra.errors import InputError


def test_refcoco_cuts_dialogues_evenly_under_ten_and_pads_boxes(raw: Any, tmp_path: Path) -> None:
    samples, dropped, reading = raw.read("refcoco", tmp_path / "raw")
    assert [len(sample.turns) // 2 for sample in samples] == [6, 7, 7]
    assert dropped == {"not-in-train-split": 1, "no-annotation": 1}
    assert reading.repairs["box-clipped"] == 1
    said = "\n".join(text for sample in samples for text in raw.texts(sample))
    assert "[0.1, 0.25, 0.3, 0.75]" in said  # x unchanged, y moved by the pad of 25 over a side of 100
    assert "[0.9, 0.65, 1.0, 0.75]" in said
    assert "describes: thing" in said and "Thing" in said


def row_xyxy(n: int, box: list[float]) -> dict[str, Any]:
    return {
        "img_path": "COCO_train2014_000000000001.jpg", "expression": f"thing {n}", "bbox": box, "image_id": 1,
        "sent_id": n, "width": 100, "height": 100,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("boxes", "wanted"),
    [
        ([[50, 50, 90, 90], [60, 60, 95, 70]], "boxes-read-as-xyxy"),
        ([[50, 50, 40, 40], [10, 10, 5, 80]], "boxes-read-as-xywh"),
    ],
)
def test_refcoco_tells_the_two_box_conventions_apart(
    raw: Any, tmp_path: Path, boxes: list[list[float]], wanted: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row_xyxy(n, box)) + "\n" for n, box in enumerate(boxes)))
    samples, _, reading = raw.read("refcoco", file)
    assert +reading.repairs == {wanted: 2}
    assert "[0.5, 0.5, 0.9, 0.9]" in "".join(raw.texts(samples[0]))


def test_the_sets_of_refcoco_number_their_refs_alike(raw: Any, tmp_path: Path) -> None:
    raw.refcoco(tmp_path)
    (tmp_path / "refcoco+").mkdir()
    for file in list((tmp_path / "refcoco").iterdir()):
        (tmp_path / "refcoco+" / file.name).write_bytes(file.read_bytes())
    samples, dropped, reading = raw.read("refcoco", tmp_path)
    refs = {parent for sample in samples for parent in sample.parents if parent.startswith("refcoco:ref/")}
    assert {"refcoco:ref/refcoco/3", "refcoco:ref/refcoco+/3"} < refs
    assert len(refs) + dropped.total() == reading.records == 44


def test_refcoco_refuses_a_pickle_that_would_run_code(raw: Any, tmp_path: Path) -> None:
    file = tmp_path / "refs(unc).p"
    file.write_bytes(pickle.dumps([Path("x")]))
    with pytest.raises(InputError, match="not a pickle of plain lists"):
        raw.read("refcoco", file)


def test_vg_draws_at_most_ten_regions(raw: Any, tmp_path: Path) -> None:
    samples, dropped, _ = raw.read("vg", tmp_path / "raw")
    assert [(sample.images[0], len(sample.turns)) for sample in samples] == [("vg/VG_100K_2/1.jpg", 20)]
    assert dropped == {"no-usable-region": 1, "held-out-image": 1, "no-image-size": 1, "repeated-id": 1}


def test_vg_questions_are_merged_per_image(raw: Any, tmp_path: Path) -> None:
    raw.vg(tmp_path / "raw")
    qas = [{"question": "What colour?", "answer": "red."}, {"question": "Why?", "answer": ""}]
    raw.dump(tmp_path / "raw/question_answers.json", [{"id": 2, "qas": qas}, {"id": 3, "qas": qas}])
    for path, options in ((tmp_path / "raw", {"records": "qas"}), (tmp_path / "raw/question_answers.json", {})):
        samples, dropped, _ = raw.read("vg", path, options=options)
        assert [raw.texts(sample) for sample in samples] == [[f"<image>\nWhat colour?\n{SHORT_ANSWER}", "Red"]]
        assert dropped == {"held-out-image": 1}
    with pytest.raises(InputError, match="records 'x' of vg is neither of regions, qas"):
        raw.read("vg", tmp_path / "raw", options={"records": "x"})
