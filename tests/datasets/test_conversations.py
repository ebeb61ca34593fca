"""Sources of captions and conversations, and of the addresses that captions come with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_textcaps_takes_one_caption_with_the_ocr_line(raw: Any, tmp_path: Path) -> None:
    samples, dropped, _ = raw.read("textcaps", tmp_path / "raw")
    assert len(samples) == 2 and dropped == {"another-caption-chosen": 4, "empty-answer": 1}
    assert raw.texts(samples[0])[0].endswith("\nReference OCR token: GO, now,")
    assert "OCR" not in raw.texts(samples[1])[0]
    seeds = {raw.texts(raw.read("textcaps", tmp_path / "raw", seed=seed)[0][0])[1] for seed in range(12)}
    assert len(seeds) > 1


def test_validation_splits_keep_their_image_folder(raw: Any, tmp_path: Path) -> None:
    raw.aokvqa(tmp_path / "raw")
    rows = json.loads((tmp_path / "raw/aokvqa_v1p0_train.json").read_text())
    raw.dump(tmp_path / "val.json", [{**row, "split": "val"} for row in rows])
    assert raw.read("aokvqa", tmp_path / "val.json")[0][0].images == ("coco/val2017/000000000003.jpg",)
    raw.coco(tmp_path / "coco")
    captions = tmp_path / "coco/annotations/captions_train2017.json"
    captions.rename(captions.with_name("captions_val2017.json"))
    assert raw.read("coco", tmp_path / "coco")[0][0].images == ("coco/val2017/000000000001.jpg",)


def test_sharegpt_mends_refuses_and_cuts(raw: Any, tmp_path: Path) -> None:
    samples, dropped, reading = raw.read("sharegpt", tmp_path / "raw")
    assert {sample.id: len(sample.turns) for sample in samples} == {
        "good": 2, "leading": 2, "open": 2, "system": 2, "long": 26,
    }  # fmt: skip
    assert dropped == {
        "no-conversation": 1, "not-alternating": 1, "empty-turn": 1, "duplicate-conversation": 1, "repeated-id": 1,
    }  # fmt: skip
    assert reading.repairs["long-conversation-cut"] == 1
    assert all(sample.extra == {"model": ""} for sample in samples)


def test_url_tables_name_images_as_img2dataset_does(raw: Any, tmp_path: Path) -> None:
    samples, dropped, _ = raw.read("url-table", tmp_path / "raw")
    (sample,) = samples
    assert (sample.images, sample.extra["url"]) == (("00000/000000000.jpg",), "http://x.test/1.jpg")
    assert dropped == {"bad-url": 1, "empty-caption": 1, "repeated-url": 1}


def test_llava_json_keeps_ids_apart(raw: Any, tmp_path: Path) -> None:
    samples, dropped, reading = raw.read("llava-json", tmp_path / "raw")
    assert [sample.id for sample in samples] == ["1", "1#2"]
    assert dropped == {"image-count-mismatch": 2, "empty-answer": 1, "not-alternating": 1, "image-in-answer": 1}
    assert reading.repairs["id-as-text"] == 1


def test_coco_boxes_are_clipped_and_crowds_left_out(raw: Any, tmp_path: Path) -> None:
    samples, dropped, reading = raw.read("coco", tmp_path / "raw")
    (box,) = samples[0].boxes
    assert (box.x1, box.y1, box.x2, box.y2, box.label) == (90, 40, 100, 50, "cup")
    assert dropped == {"no-caption": 1, "repeated-id": 1}
    assert reading.repairs["instance-left-out"] == 1
