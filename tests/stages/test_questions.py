"""Questions of benchmarks come into the store whole, indexed, and only when every picture is there."""

from __future__ import annotations

import json
from base64 import b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavaflow.datasets._index import read_index, read_row, sha256_bytes
from llavaflow.infra.errors import InputError
from llavaflow.stages._exam import questions
from llavaflow.stages.questions import Questions

ROWS = [
    {"question_id": 1, "image": "train/red.png", "text": "Which colour?", "category": "natural"},
    {"question_id": 2, "text": "How many legs has a spider?"},
    {"question_id": 3, "image": "blue.png", "text": "Which colour?"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "eval"
    (root / "images" / "train").mkdir(parents=True)
    Image.new("RGB", (8, 6), "red").save(root / "images" / "train" / "red.png")
    Image.new("RGB", (8, 6), "blue").save(root / "images" / "blue.png")
    (root / "scienceqa").mkdir()
    (root / "scienceqa" / "problems.json").write_text("{}")
    write(root, ROWS)
    return root


def write(root: Path, rows: list[Any]) -> None:
    (root / "scienceqa" / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def stage(folder: Path) -> Questions:
    return Questions(folder=folder, benchmarks=("scienceqa",))


def test_questions_gold_and_pictures_are_where_an_evaluation_looks(bench: Any, folder: Path) -> None:
    artifact = bench.run(stage(folder))
    root = bench.path(artifact)
    assert artifact.facts["questions"] == {"scienceqa": 3} and artifact.facts["images"] == 2
    assert (root / "eval" / "scienceqa" / "problems.json").is_file()
    rows = read_index(root).to_pylist()
    assert len(rows) == 5
    for row in rows:
        assert sha256_bytes(read_row(root, row["file"], row["row"])) == row["sha256"]
    asked = questions(root, "scienceqa", ("images", "shuffled"), seed=0, max_new_tokens=8)
    assert [question.shown for question in asked] == [
        "train/red.png", None, "blue.png", "blue.png", None, "train/red.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"question_id": 4, "image": "green.png", "text": "?"}, "1 pictures .* green.png"),
        ({"question_id": 4, "image": "red.png"}, "line 1: a question without text"),
        ({"question_id": 4, "image": "../red.png", "text": "?"}, "leads out"),
        ({"question_id": 4, "image": "/tmp/red.png", "text": "?"}, "leads out"),
        (["no", "object"], "line 1: not a JSON object"),
    ],
)
def test_a_question_that_cannot_be_asked_stops_the_stage(bench: Any, folder: Path, row: Any, told: str) -> None:
    write(folder, [row])
    with pytest.raises(InputError, match=told):
        bench.run(stage(folder))


def test_a_benchmark_that_is_not_there_says_what_is(bench: Any, folder: Path) -> None:
    with pytest.raises(InputError, match="no questions for pope.*images, scienceqa"):
        bench.run(Questions(folder=folder, benchmarks=("pope",)))


def test_a_table_that_holds_questions_and_pictures_needs_no_question_file(bench: Any, tmp_path: Path) -> None:
    """MMBench as published: a picture in every row, or once, and its row's index elsewhere."""
    png = BytesIO()
    Image.new("RGB", (8, 6), "green").save(png, "PNG")
    cell = b64encode(png.getvalue()).decode()
    rows = [("7", "Look.", "Which?", "x", "y", "nan", "B", cell), ("1000007", "", "Which?", "y", "x", "", "A", "7")]
    head = "index hint question A B C answer image".split()
    for name in ("mmbench", "mmbench-cn"):
        (tmp_path / name).mkdir()
        table = "\n".join("\t".join(row) for row in (head, *rows)) + "\n"
        (tmp_path / name / f"mmbench_dev_{'cn_' if name == 'mmbench-cn' else ''}2023.tsv").write_text(table)
    root = bench.path(bench.run(Questions(folder=tmp_path, benchmarks=("mmbench", "mmbench-cn"))))
    first, second = questions(root, "mmbench", ("images",), 0, 8)
    letter = "Answer with the option's letter from the given choices directly."
    assert first.text == f"Look.\nWhich?\nA. x\nB. y\n{letter}" and second.text.startswith("Which?\nA. y")
    assert first.shown == second.shown == "mmbench/7.jpg"
    assert (root / "eval/images/mmbench-cn/7.jpg").read_bytes() == png.getvalue()
    assert questions(root, "mmbench-cn", ("images",), 0, 8)[0].text.endswith("\n请直接回答选项字母。")
    assert {row["id"] for row in read_index(root).to_pylist()} >= {"mmbench/1", "image/mmbench/7.jpg"}
