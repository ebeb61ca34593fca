"""A user's own data: everything wrong is told by record before anything is built; what is right is stored whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llavaflow.datasets._index import read_index, read_row, sha256_bytes
from llavaflow.datasets._shards import ImageTable
from llavaflow.infra.errors import InputError
from llavaflow.models.images import PINPOINTS_336, ImageRule, count_tiles, count_tokens, layout, transform
from llavaflow.models.pixels import open_image
from llavaflow.stages.own_data import OwnData


def talk(question: str = "<image>\nWhich colour?", answer: str = "Red.") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def record(name: str | int, image: str | None = "red.png", **turns: str) -> dict[str, Any]:
    return {"id": name, **({"image": image} if image else {}), "conversations": talk(**turns)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("red.png", "red.jpg", "blue.png"):
        Image.new("RGB", (20, 10), name.split(".")[0]).save(folder / name)
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:-30])
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_good_records_become_training_data(bench: Any, tmp_path: Path, images: Path) -> None:
    rows = [
        record(1),
        record("deep", image="some/layout/blue.png", answer=" Blue. "),
        record("other", image="red.jpg"),
        record("text", image=None, question="Hello?"),
    ]
    artifact = bench.run(OwnData(file=write(tmp_path / "my.json", rows), images=images))
    root = bench.path(artifact)
    written = [json.loads(line) for line in (root / "data.jsonl").read_text().splitlines()]
    assert [row["id"] for row in written] == ["1", "deep", "other", "text"]
    assert written[1]["conversations"][1]["value"] == "Blue."
    table = ImageTable(root)
    assert table.open(written[0]["image"]) == (images / "red.png").read_bytes()
    assert table.open(written[2]["image"]) == (images / "red.jpg").read_bytes()
    assert table.size(written[1]["image"]) == (20, 10)
    assert "image" not in written[3]
    assert artifact.facts["samples"] == 4 and artifact.facts["with_image"] == 3 and artifact.facts["dropped"] == {}
    for row in read_index(root).to_pylist():
        assert sha256_bytes(read_row(root, row["file"], row["row"])) == row["sha256"]


def test_a_photo_on_its_side_is_stored_with_its_upright_size(bench: Any, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 20)).save(tmp_path / "turned.jpg", exif=exif)
    file = write(tmp_path / "my.json", [record("turned", image="turned.jpg")])
    table = ImageTable(bench.path(bench.run(OwnData(file=file, images=tmp_path))))
    shown = open_image(table.open("turned.jpg"))
    assert table.size("turned.jpg") == shown.size == (20, 60)
    # the token count that is planned from the table is that of the pixels that come
    anyres = ImageRule(aspect="anyres", pinpoints=PINPOINTS_336)
    tiles = transform(anyres, shown)
    assert len(tiles) == count_tiles(anyres, *table.size("turned.jpg"))
    planned = len(layout(anyres, *table.size("turned.jpg")))
    assert planned == count_tokens(anyres, 20, 60) != count_tokens(anyres, 60, 20)


def test_a_parquet_that_carries_its_images_needs_no_folder(bench: Any, tmp_path: Path, images: Path) -> None:
    rows = [
        {"id": "a", "conversations": talk(), "image": {"bytes": (images / name).read_bytes(), "path": None}}
        for name in ("red.png", "blue.png", "cut.png")
    ]
    for row, name in zip(rows, "abc", strict=True):
        row["id"] = name
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "next.parquet")
    artifact = bench.run(OwnData(file=tmp_path / "next.parquet", tolerate=0.4))
    assert artifact.facts["samples"] == 2 and artifact.facts["dropped"] == {"broken-image": 1}
    written = [json.loads(line) for line in (bench.path(artifact) / "data.jsonl").read_text().splitlines()]
    assert ImageTable(bench.path(artifact)).open(written[1]["image"]) == (images / "blue.png").read_bytes()


BAD = {
    "missing-image": record("b1", image="nowhere.png"),
    "broken-image": record("b2", image="cut.png"),
    "empty-answer": record("b3", answer="  "),
    "image-count-mismatch": record("b4", question="<image>\nWhat is <image>?"),
    "not-alternating": {"id": "b5", "image": "red.png", "conversations": talk()[::-1]},
    "reserved-string": record("b6", answer="Yes </s> no"),
    "malformed-record": {"id": "b7", "image": "red.png"},
    "image-in-answer": record("b8", answer="See <image>"),
}


def test_every_kind_of_bad_record_is_told_before_anything_is_built(bench: Any, tmp_path: Path, images: Path) -> None:
    file = write(tmp_path / "my.json", [record("good"), *BAD.values()])
    stage = OwnData(file=file, images=images)
    with pytest.raises(InputError, match="8 of 9 records") as refused:
        bench.run(stage)
    for kind, row in BAD.items():
        assert f"(id {row['id']}): {kind}" in str(refused.value)
    assert not (bench.context(stage).out / "data.jsonl").exists()


def test_more_bad_records_than_fit_the_message_are_in_the_report(bench: Any, tmp_path: Path, images: Path) -> None:
    file = write(tmp_path / "my.json", [record(n, image="nowhere.png") for n in range(30)])
    stage = OwnData(file=file, images=images)
    with pytest.raises(InputError, match="all 30 in"):
        bench.run(stage)
    report = bench.context(stage).work / "bad-records.jsonl"
    assert [json.loads(line)["record"] for line in report.read_text().splitlines()] == list(range(30))


def test_a_tolerated_share_is_left_out_and_indexed(bench: Any, tmp_path: Path, images: Path) -> None:
    file = write(tmp_path / "my.json", [record(1), record(2), record(3), BAD["missing-image"]])
    artifact = bench.run(OwnData(file=file, images=images, tolerate=0.25))
    assert artifact.facts["samples"] == 3 and artifact.facts["dropped"] == {"missing-image": 1}
    left_out = [row for row in read_index(bench.path(artifact)).to_pylist() if row["dropped"]]
    assert [(row["id"], row["dropped"]) for row in left_out] == [("record/3", "missing-image")]
    with pytest.raises(InputError, match="1 of 4"):
        bench.run(OwnData(file=file, images=images, tolerate=0.2))


def test_records_with_images_need_an_image_folder(bench: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="red.png: no image folder is given"):
        bench.run(OwnData(file=write(tmp_path / "my.json", [record(1)])))


def test_missing_input_is_said_plainly(bench: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data.file=my.json"):
        bench.run(OwnData())
    file = write(tmp_path / "my.json", [])
    with pytest.raises(InputError, match="holds no records"):
        bench.run(OwnData(file=file))
