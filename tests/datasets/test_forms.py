"""Raw files as they travel: zipped, re-saved by another editor, in parts, or in the form of another mirror."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llavaflow.datasets._source import LETTER, source_names
from llavaflow.infra.errors import InputError

MARK = b"\xef\xbb\xbf"


def indented(data: bytes) -> bytes:
    try:
        return json.dumps(json.loads(data), indent=2, ensure_ascii=False).replace("\n", "\r\n").encode()
    except ValueError:
        return data.replace(b"\n", b"\r\n")


FORMS: dict[str, Callable[[bytes], bytes]] = {"mark": lambda data: MARK + data, "indented": indented}


@pytest.mark.parametrize("form", [*FORMS, "zipped"])
@pytest.mark.parametrize("name", source_names())
def test_a_form_of_the_file_changes_nothing(raw: Any, name: str, form: str, tmp_path: Path) -> None:
    plain = raw.read(name, tmp_path / "raw")
    for file in [file for file in (tmp_path / "raw").rglob("*") if file.is_file()]:
        zipped = file.suffix == ".gz"
        if form == "zipped" and not zipped:
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
        elif form != "zipped" and file.suffix != ".p":
            data = FORMS[form](gzip.decompress(file.read_bytes()) if zipped else file.read_bytes())
            file.write_bytes(gzip.compress(data) if zipped else data)
    again = raw.read(name, tmp_path / "raw")
    assert again[:2] == plain[:2] and again[2].records == plain[2].records


def test_google_splits_beside_others_are_left_aside(raw: Any, tmp_path: Path) -> None:
    raw.refcoco(tmp_path)
    samples = raw.read("refcoco", tmp_path)[0]
    folder = tmp_path / "refcoco"
    (folder / "refs(google).p").write_bytes((folder / "refs(unc).p").read_bytes())
    again, _, reading = raw.read("refcoco", tmp_path)
    assert again == samples and reading.repairs["other-split-left-aside"] == 1
    raw.dump(folder / "refs(unc).json", pickle.loads((folder / "refs(unc).p").read_bytes()))
    assert raw.read("refcoco", tmp_path)[0] == samples, "one format of two"
    (folder / "refs(unc).p").unlink()
    (folder / "refs(unc).json").unlink()
    assert raw.read("refcoco", tmp_path)[0] == samples, "alone it is read"


def test_refs_with_a_box_and_a_list_of_sentences(raw: Any, tmp_path: Path) -> None:
    """The rows of the parquet dumps: corners, and the size of the image as text."""
    said = [{"raw": "left cup", "sent": "left cup"}, {"raw": "", "sent": ""}, {"raw": "", "sent": "the red one"}]
    size = json.dumps({"height": 100, "width": 200})
    row = {"ref_id": 1, "image_id": 7, "split": "train", "sentences": said, "raw_image_info": size}
    rows = [
        {**row, "bbox": [100.0, 20.0, 190.0, 90.0]},
        {**row, "ref_id": 2, "bbox": [10.0, 10.0, 5.0, 90.0], "sentences": said[:1]},
        {**row, "ref_id": 3, "bbox": [0.0, 0.0, 9.0, 9.0], "split": "testA"},
        {**row, "ref_id": 4, "bbox": [0.0, 0.0, 9.0, 9.0], "raw_image_info": ""},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    samples, dropped, reading = raw.read("refcoco", tmp_path / "train.parquet", options={"boxes": "xyxy"})
    assert dropped == {"bad-box": 1, "not-in-train-split": 1, "no-image-size": 1} and reading.records == 4
    told = "\n".join(raw.texts(samples[0]))
    assert len(samples[0].turns) == 4 and told.count("[0.5, 0.35, 0.95, 0.7]") == 2
    assert "left cup" in told.lower() and "the red one" in told.lower()
    assert reading.repairs["empty-sentence-left-out"] == 1
    with pytest.raises(InputError, match="boxes 'yx' of refcoco"):
        raw.read("refcoco", tmp_path / "train.parquet", options={"boxes": "yx"})


@pytest.mark.parametrize(("row", "box"), [("expression", "[0.1, 0.1, 0.2, 0.3]"), ("sents", "[0.1, 0.1, 0.3, 0.4]")])
def test_boxes_that_fit_both_ways_are_read_as_their_dump_has_them(
    raw: Any, row: str, box: str, tmp_path: Path
) -> None:
    image = {"img_id": "COCO_train2014_000000000012_3", "width": 100, "height": 100}
    (tmp_path / "x.json").write_text(json.dumps([{row: "it", "bbox": [10, 10, 20, 30], **image}]))
    assert box in "".join(raw.texts(raw.read("refcoco", tmp_path / "x.json")[0][0]))


def test_coco_images_are_known_by_any_of_their_names(raw: Any, tmp_path: Path) -> None:
    row = {"expression": "it", "bbox": [0, 0, 90, 90], "width": 100, "height": 100}
    names = ["COCO_train2014_000000000012_3.jpg", "train2017/000000000012.jpg", "COCO_train2014_000000000012"]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({**row, "img_path": name}) + "\n" for name in names))
    samples, _, _ = raw.read("refcoco", tmp_path / "x.jsonl")
    assert [(sample.images, len(sample.turns)) for sample in samples] == [(("coco/train2017/000000000012.jpg",), 6)]
    (tmp_path / "x.jsonl").write_text(json.dumps({**row, "img_path": "cat.jpg"}))
    with pytest.raises(InputError, match="line 1: no COCO image number in 'cat.jpg'"):
        raw.read("refcoco", tmp_path / "x.jsonl")


def test_ai2d_by_diagram_and_as_rows(raw: Any, tmp_path: Path) -> None:
    raw.ai2d(tmp_path)
    samples, dropped, _ = raw.read("ai2d", tmp_path / "questions/1.png.json")
    assert [sample.id for sample in samples] == ["images/1"] and not dropped
    assert raw.read("ai2d", tmp_path / "questions/3.png.json")[1] == {"held-out-image": 1}
    rows = [{"question": "Which?", "options": ["x", "y"], "answer": "1", "image": {"bytes": b"", "path": None}}] * 2
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "ai2d.parquet")
    samples, _, _ = raw.read("ai2d", tmp_path / "ai2d.parquet")
    assert [raw.texts(sample) for sample in samples] == [[f"<image>\nWhich?\nA. x\nB. y\n{LETTER}", "B"]] * 2
    (tmp_path / "ai2d_test_ids.csv").unlink()
    assert raw.read("ai2d", tmp_path)[2].repairs["no-list-of-test-diagrams"] == 1


def test_one_broken_diagram_of_many_is_set_aside(raw: Any, tmp_path: Path) -> None:
    raw.ai2d(tmp_path)
    (tmp_path / "questions/2.png.json").write_text('{"imageName": "2.png",\n"questions"')
    with pytest.raises(InputError, match=r"2\.png\.json, line 2: not JSON"):
        raw.read("ai2d", tmp_path)
    samples, dropped, reading = raw.read("ai2d", tmp_path, tolerate=0.5)
    assert len(samples) == 1 and dropped["malformed-record"] == 1 and reading.malformed == 1
    # the share is that of all diagrams, also when the broken one comes first
    (tmp_path / "questions/2.png.json").rename(tmp_path / "questions/0.png.json")
    assert raw.read("ai2d", tmp_path, tolerate=0.5)[1]["malformed-record"] == 1


@pytest.mark.parametrize("missing", ["human", "augmented"])
def test_either_half_of_chartqa_will_do(raw: Any, missing: str, tmp_path: Path) -> None:
    raw.chartqa(tmp_path)
    (tmp_path / f"train/train_{missing}.json").unlink()
    assert [len(sample.turns) for sample in raw.read("chartqa", tmp_path)[0]] == [2]


HEADERS = [("URL", "TEXT"), ("url", "caption"), ("Image_URL", "Alt_Text"), ("url", "blip_caption")]
ROWS = [("http://x.test/1.jpg", "one, two"), ("http://x.test/2.jpg", 'a "word"'), ("ftp://x.test/3.jpg", "three")]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables_of_addresses_under_any_header(raw: Any, header: tuple[str, str], suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"table{suffix}"
    records = [dict(zip((header[1], "similarity", header[0]), (text, 0.3, url), strict=True)) for url, text in ROWS]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), file)
    elif suffix == ".jsonl":
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        comma = "," if suffix == ".csv" else "\t"
        quoted = [[f'"{cell}"' if suffix == ".csv" and "," in str(cell) else str(cell) for cell in record.values()]
                  for record in records]  # fmt: skip
        file.write_bytes(MARK + "\n".join(comma.join(row) for row in [[*records[0]], *quoted]).encode() + b"\n\n")
    samples, dropped, reading = raw.read("url-table", file)
    assert [(sample.extra["url"], raw.texts(sample)[1]) for sample in samples] == ROWS[:2]
    assert dropped == {"bad-url": 1} and reading.records == 3


def test_the_parts_of_a_table_are_one_table(raw: Any, tmp_path: Path) -> None:
    for part in (1, 0):
        rows = [{"url": f"http://x.test/{part}.jpg", "text": "a"}, {"url": "http://x.test/same.jpg", "text": "b"}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"part-{part:05d}.parquet")
    samples, dropped, _ = raw.read("url-table", tmp_path)
    assert [sample.extra["url"][14:] for sample in samples] == ["0.jpg", "same.jpg", "1.jpg"]
    assert dropped == {"repeated-url": 1} and len({sample.id for sample in samples}) == 3


def test_sbu_as_two_texts(raw: Any, tmp_path: Path) -> None:
    (tmp_path / "SBU_captioned_photo_dataset_urls.txt").write_text("http://x.test/1.jpg\nhttp://x.test/2.jpg\n")
    texts = tmp_path / "SBU_captioned_photo_dataset_captions.txt"
    texts.write_text("One.\nTwo.\n")
    samples, _, _ = raw.read("url-table", tmp_path)
    assert [raw.texts(sample)[1] for sample in samples] == ["One.", "Two."]
    texts.write_text("One.\n")
    with pytest.raises(InputError, match="differ in length from line 2 on"):
        raw.read("url-table", tmp_path)


@pytest.mark.parametrize(("name", "file"), [("gqa", "train_balanced_questions.json"), ("dvqa", "train_qa.json")])
def test_what_stands_behind_the_end_is_not_lost(raw: Any, name: str, file: str, tmp_path: Path) -> None:
    raw.WRITERS[name](tmp_path)
    for place in tmp_path.iterdir():
        text = (gzip.decompress(place.read_bytes()) if place.suffix == ".gz" else place.read_bytes()).decode()
        place.unlink()
    (tmp_path / file).write_text(f"{text}\n{text}")
    with pytest.raises(InputError, match=f"{file}, line 2: something stands behind the end"):
        raw.read(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "text", "told"),
    [
        ("gqa", "train_balanced_questions.json", '[{"a": 1}]', "a mapping of records by id is expected"),
        ("dvqa", "train_qa.json", '{"a": {"b": 1}}', "a list of records is expected, not a mapping \\(here its 'a'\\)"),
        ("dvqa", "train_qa.json", "[[1]]", "a record of named fields is expected, not a list"),
        ("gqa", "train_balanced_questions.json", '{"a": [1]}', "under 'a' a record of named fields is expected"),
        ("scienceqa", "pid_splits.json", "[1]", "is not a mapping of splits"),
        ("synthdog", "metadata.jsonl", "", "is empty: it holds no record"),
    ],
)
def test_another_form_is_told_for_what_it_is(
    raw: Any, name: str, file: str, text: str, told: str, tmp_path: Path
) -> None:
    raw.WRITERS[name](tmp_path)
    (tmp_path / file).write_text(text)
    (tmp_path / f"{file}.gz").unlink(missing_ok=True)
    with pytest.raises(InputError, match=told):
        raw.read(name, tmp_path)


def test_refs_of_an_old_pickle(raw: Any, tmp_path: Path) -> None:
    """The authors' files are of Python 2: texts are bytes in them."""
    raw.refcoco(tmp_path)
    file = tmp_path / "refcoco/refs(unc).p"
    plain = raw.read("refcoco", tmp_path)[0]
    file.write_bytes(pickle.dumps(pickle.loads(file.read_bytes()), protocol=2))
    assert raw.read("refcoco", tmp_path)[0] == plain
