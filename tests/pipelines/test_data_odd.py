"""`pipeline data` on odd files: no records, pictures inside or in other folders, anything in any field."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llavaflow.stages import _check_fix

# the fixture `pipeline` of this folder
Command = Callable[..., Any]
ODD: tuple[Any, ...] = (None, "", [], {}, 1, 1.5, True, "zz", ["a.jpg"], [None], {"bytes": "x"}, "../x", "<image>")


@pytest.mark.parametrize(("name", "text"), [("x.jsonl", ""), ("x.jsonl", "\n\n"), ("x.json", "[]"), ("x.json", "")])
def test_a_file_without_records_passes_no_gate(pipeline: Command, name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    out = tmp_path / "out.jsonl"
    for args in (("check", tmp_path / name), ("read", "llava-json", "--path", tmp_path / name, "--out", out)):
        told = pipeline("data", *args)
        assert told.code == 2 and told.err.startswith("error: ") and not out.exists()


def test_images_are_found_in_the_folders_that_paths_leave_out(pipeline: Command, tmp_path: Path) -> None:
    problem = {"question": "Q?", "choices": ["a", "b"], "answer": 0, "image": "image.png"}
    (tmp_path / "problems.json").write_text(json.dumps({"7": problem}))
    for folder, present in ((None, 0), ("train/7", 1), ("images/train/7", 1)):
        if folder:
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "image.png").write_bytes(b"x")
        args = ("--path", tmp_path / "problems.json", "--out", tmp_path / "o.jsonl", "--force", "--json")
        told = pipeline("data", "read", "scienceqa", *args)
        assert (told.code, told.json["images_present"], told.json["images_missing"]) == (0, present, 1 - present)


def test_pictures_inside_tables_are_found_and_can_be_written(pipeline: Command, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "JPEG")
    truth = json.dumps({"gt_parse": {"text_sequence": "some words"}})
    (tmp_path / "raw/data").mkdir(parents=True)
    row = {"image": {"bytes": buffer.getvalue(), "path": None}, "ground_truth": truth}
    pq.write_table(pa.Table.from_pylist([row] * 2), tmp_path / "raw/data/train-00000-of-00001.parquet")
    out, pictures = tmp_path / "x.jsonl", tmp_path / "pictures"
    args = ("--path", tmp_path / "raw", "--out", out, "--extract", pictures, "--drop-missing", "--json")
    told = pipeline("data", "read", "synthdog", *args).json
    assert (told["samples"], told["images_present"], told["images_missing"]) == (2, 2, 0)
    assert pipeline("data", "check", out, "--images", pictures).code == 0


def test_folders_of_what_is_written_are_made(pipeline: Command, tmp_path: Path) -> None:
    row = {"id": "1", "conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]}
    (tmp_path / "x.json").write_text(json.dumps([row]))
    out = tmp_path / "new/folder/out.jsonl"
    assert pipeline("data", "read", "llava-json", "--path", tmp_path / "x.json", "--out", out).code == 0
    assert pipeline("data", "check", out, "--fix", tmp_path / "other/fixed.json").code == 0
    assert pipeline("data", "show", out, "--html", tmp_path / "pages/a.html").code == 0
    told = pipeline("data", "check", out, "--fix", tmp_path / "x.json/inside.json")
    assert told.code == 2 and "cannot be made" in told.err


@pytest.mark.parametrize("field", ["id", "image", "conversations", "turn", "from", "value"])
def test_no_value_of_any_field_ends_in_a_traceback(pipeline: Command, field: str, tmp_path: Path) -> None:
    rows = [*ODD]
    for odd in ODD:
        talk: list[Any] = [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "A."}]
        record = {"id": "1", "image": "a.jpg", "conversations": talk}
        holder: Any = {"turn": talk, "from": talk[0], "value": talk[1]}.get(field, record)
        holder[0 if field == "turn" else field] = odd
        rows.append(record)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "images/a.jpg")
    file, fixed = tmp_path / "x.jsonl", tmp_path / "fixed.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ("--images", tmp_path / "images", "--json")
    told = pipeline("data", "check", file, *args, "--fix", fixed)
    done = told.json["fixed"]
    assert told.code == 2 and told.json["samples"] == len(rows) == done["records"] + done["quarantined"]
    assert pipeline("data", "show", file, "-n", 99).code == 0
    if done["records"]:
        assert pipeline("data", "check", fixed, *args).code == 0, "what was mended is without errors"


RECORD = {
    "id": "a",
    "image": "a.jpg",
    "conversations": [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "A. "}],
}


@pytest.mark.parametrize("name", ["x.jsonl", "linked.jsonl", "hard.jsonl", "folder/../x.jsonl"])
def test_what_is_read_is_never_written_over(pipeline: Command, name: str, tmp_path: Path) -> None:
    original = tmp_path / "x.jsonl"
    original.write_text(json.dumps(RECORD) + "\n")
    before = original.read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked.jsonl").symlink_to(original)
    (tmp_path / "hard.jsonl").hardlink_to(original)
    out, gone = tmp_path / name, tmp_path / "gone.jsonl"
    for args in (
        ("check", original, "--fix", out),
        ("check", original, "--quarantine", out),
        ("check", original, "--fix", gone, "--quarantine", gone),
        ("check", original, "--fix", gone, "--quarantine", tmp_path / "gone.jsonl.changes.jsonl"),
        ("show", original, "--html", out),
        ("read", "llava-json", "--path", original, "--out", out),
        ("read", "llava-json", "--path", original, "--out", gone, "--quarantine", gone),
    ):
        told = pipeline("data", *args, "--force")
        assert told.code == 2 and "read or written by this very command" in told.err
    assert original.read_bytes() == before and not gone.exists()


def test_what_cannot_be_written_is_told_before_anything_is_read(pipeline: Command, tmp_path: Path) -> None:
    original, taken = tmp_path / "x.jsonl", tmp_path / "taken.jsonl.changes.jsonl"
    original.write_text(json.dumps(RECORD) + "\n")
    taken.write_text("mine")
    for out, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "taken.jsonl", "is not overwritten"),
        (Path("/proc/none.jsonl"), "no file can be written in /proc"),
    ):
        told = pipeline("data", "check", original, "--fix", out)
        assert told.code == 2 and message in told.err
    assert taken.read_text() == "mine" and sorted(tmp_path.iterdir()) == [taken, original]


def test_a_broken_off_fix_leaves_nothing(pipeline: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, folder = tmp_path / "x.jsonl", tmp_path / "out"
    original.write_text(json.dumps(RECORD) + "\n")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_check_fix, "_is_copy", interrupted)
    assert pipeline("data", "check", original, "--fix", folder / "fixed.json").code == 130
    assert list(folder.iterdir()) == []


def test_folders_and_dead_links_are_no_images(pipeline: Command, tmp_path: Path) -> None:
    file, images = tmp_path / "x.jsonl", tmp_path / "images"
    rows = [RECORD | {"id": name, "image": f"{name}.jpg"} for name in ("folder", "dead", "loop", "there")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (images / "folder.jpg").mkdir(parents=True)
    (images / "dead.jpg").symlink_to("nowhere")
    (images / "loop.jpg").symlink_to("loop.jpg")
    Image.new("RGB", (20, 20)).save(tmp_path / "real.jpg")
    (images / "there.jpg").symlink_to("../real.jpg")
    told = pipeline("data", "check", file, "--images", images, "--json")
    assert (told.code, told.json["errors"]) == (2, {"missing-image": 3})
    args = ("--path", file, "--images", images, "--out", tmp_path / "o.jsonl", "--json")
    told = pipeline("data", "read", "llava-json", *args)
    assert (told.json["images_present"], told.json["images_missing"]) == (1, 3)
    (images / "loop.jpg").unlink()
    (images / "loop.jpg").symlink_to("/proc/self/mem")
    told = pipeline("data", "check", file, "--images", images)
    assert told.code == 2 and "cannot read the image" in told.err


@pytest.mark.parametrize(
    "args",
    [("show", "-n", "-1"), ("show", "--from", "-1"), ("show", "--image-tokens", "²"), ("check", "--max-length", "0")],
)
def test_numbers_out_of_range_are_refused(pipeline: Command, args: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(RECORD) + "\n")
    assert pipeline("data", args[0], tmp_path / "x.jsonl", *args[1:]).code == 2


def _table(path: Path, **columns: Any) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "JPEG")
    cells = {name: cell if cell != "jpeg" else buffer.getvalue() for name, cell in columns.items()}
    if isinstance(cells["image"], str):
        cells["image"] = {"bytes": buffer.getvalue(), "path": cells["image"]}
    pq.write_table(pa.Table.from_pylist([RECORD | cells]), path)


def test_pictures_of_tables_stay_inside_the_folder_they_are_written_to(pipeline: Command, tmp_path: Path) -> None:
    escaped = tmp_path / "elsewhere/a.jpg"
    _table(tmp_path / "x.parquet", image=str(escaped))
    out, pictures = tmp_path / "x.jsonl", tmp_path / "pictures"
    args = ("--path", tmp_path / "x.parquet", "--out", out, "--extract", pictures)
    assert pipeline("data", "read", "llava-json", *args).code == 0
    assert not escaped.exists() and pipeline("data", "check", out, "--images", pictures).code == 0


def test_tables_may_hold_more_than_json_can(pipeline: Command, tmp_path: Path) -> None:
    odd = {"thumbnail": b"\xff", "price": Decimal("1.5"), "day": date(2020, 1, 2), "more": {"bytes": b"\xff"}}
    for image in ("a.jpg", "jpeg"):
        _table(tmp_path / "x.parquet", image=image, **odd)
        args = ("--path", tmp_path / "x.parquet", "--out", tmp_path / "x.jsonl", "--force", "--json")
        told = pipeline("data", "read", "llava-json", *args)
        assert (told.code, told.json["images_present"]) == (0, 1)
        told = pipeline("data", "check", tmp_path / "x.parquet", "--fix", tmp_path / "fixed.jsonl", "--force", "--json")
        assert (told.code, told.json["errors"], told.json["images_checked"]) == (0, {}, True)
        row = json.loads((tmp_path / "x.jsonl").read_text())
        assert (row["image"], row["price"], row["day"]) == ("a.jpg", "1.5", "2020-01-02") and "thumbnail" not in row
