"""Sources of captions and conversations, and of the addresses that captions come with."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets import llava_instruct
from llavaflow.infra.errors import InputError


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
    (tmp_path / "odd.tsv").write_text("URL\tTEXT\nhttp://[x.test/1.jpg\ta cat\n")
    assert raw.read("url-table", tmp_path / "odd.tsv")[1] == {"bad-url": 1}


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


def test_llava_instruct_is_its_parts_behind_each_other(raw: Any, tmp_path: Path) -> None:
    raw.llava_instruct(tmp_path)
    samples, dropped, reading = raw.read("llava-instruct", tmp_path, options={"prefix": "coco/train2017"})
    said = [raw.texts(sample)[1] for sample in samples]
    assert said == ["A talk."] * 6 + ["A description."] * 2 + ["A thought."] * 7 and not dropped
    assert samples[0].images == ("coco/train2017/000000000000.jpg",) and reading.repairs["repeated-id-suffixed"] == 6


@pytest.mark.parametrize(("half", "counts"), [(40_000, (4, 5)), (4, (4, 4)), (2, (2, 2))])
def test_the_80k_share_no_image(
    raw: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: int, counts: tuple[int, int]
) -> None:
    monkeypatch.setattr(llava_instruct, "HALF", half)
    raw.llava_instruct(tmp_path)
    samples, dropped, reading = raw.read("llava-instruct", tmp_path, options={"records": "80k"})
    assert len({sample.images for sample in samples}) == len(samples)
    said = Counter(raw.texts(sample)[1] for sample in samples)
    assert (said["A talk."], said["A thought."]) == counts and said.total() == sum(counts)
    assert dropped["not-sampled"] + len(samples) == reading.records == 13
    other = raw.read("llava-instruct", tmp_path, options={"records": "80k"}, seed=1)[0]
    assert samples == raw.read("llava-instruct", tmp_path, options={"records": "80k"})[0] != other


def test_llava_instruct_says_what_it_needs(raw: Any, tmp_path: Path) -> None:
    raw.llava_instruct(tmp_path)
    with pytest.raises(InputError, match="records '7k' of llava-instruct is neither of 158k, 80k"):
        raw.read("llava-instruct", tmp_path, options={"records": "7k"})
    with pytest.raises(InputError, match="is one file: give the folder with the parts"):
        raw.read("llava-instruct", tmp_path / "detail_23k.json")
    (tmp_path / "detail_23k.json").unlink()
    with pytest.raises(InputError, match="no detail_23k.json"):
        raw.read("llava-instruct", tmp_path)
