"""`pipeline data` on odd files: no records, pictures inside or in other folders, anything in any field."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

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
