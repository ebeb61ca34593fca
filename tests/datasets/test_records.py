"""Training data in the forms in which it lies: the same records and images out of each."""

from __future__ import annotations

import io
import json
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llavaflow.datasets._records import Records, next_rows, open_records
from llavaflow.infra.errors import InputError

TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]


def seen(records: Records) -> list[tuple[Any, bytes | None]]:
    """Every record with its first image, twice: a set can be read again."""
    passes = []
    for _ in range(2):
        found = []
        for row in records.rows():
            names = row.get("image") or []
            name = names if isinstance(names, str) else next(iter(names), None)
            found.append((row, records.images.load(name) if records.images and name else None))
        passes.append(found)
    assert passes[0] == passes[1]
    return passes[0]


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def next_table(count: int, **image: Any) -> pa.Table:
    rows = [
        {"id": f"r{n}", "conversations": TALK, "data_source": "x", "image": {"bytes": b"%d" % n, "path": None, **image}}
        for n in range(count)
    ]
    return pa.Table.from_pylist([*rows, {"id": "text", "conversations": TALK, "data_source": "x", "image": None}])


def test_a_folder_of_next_tables(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(next_table(2), tmp_path / "data/train-1.parquet")
    pq.write_table(next_table(1, path="a/b.jpg"), tmp_path / "data/train-0.parquet")
    found = seen(open_records(tmp_path))
    assert [(row["id"], row.get("image"), data) for row, data in found] == [
        ("r0", "a/b.jpg", b"0"), ("text", None, None), ("r0", "r0.jpg", b"0"), ("r1", "r1.jpg", b"1"),
        ("text", None, None),
    ]  # fmt: skip
    assert found[0][0]["conversations"] == TALK
    # without a use for them, the bytes of pictures are not read
    names = [row.get("image") for row in next_rows(tmp_path / "data/train-0.parquet")]
    assert names == ["a/b.jpg", None]


def test_rows_with_several_pictures(tmp_path: Path) -> None:
    pictures = [{"bytes": b"one", "path": "1.png"}, {"bytes": b"two", "path": None}]
    table = pa.Table.from_pylist([{"id": "m", "conversations": TALK, "image": pictures}])
    pq.write_table(table, tmp_path / "m.parquet")
    records = open_records(tmp_path / "m.parquet")
    ((row, data),) = seen(records)
    assert row["image"] == ["1.png", "m_1.jpg"] and data == b"one"
    assert records.images and records.images.load("m_1.jpg") == b"two"


def test_pictures_stay_until_a_batch_of_rows_is_looked_at(tmp_path: Path) -> None:
    many = [{"bytes": b"%d" % number, "path": f"{number}.png"} for number in range(9)]
    rows = [
        {"id": str(n), "conversations": TALK, "image": [{**each, "path": f"{n}/{each['path']}"} for each in many]}
        for n in range(700)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    records = open_records(tmp_path / "m.parquet")
    read = list(islice(records.rows(), 600))
    assert records.images and all(records.images.load(name) for row in read[-256:] for name in row["image"])
    assert records.images.load("0/0.png") is None, "but not for ever"


def test_webdataset_tars_with_captions_or_conversations(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        add(tar, "000.jpg", b"first")
        add(tar, "000.json", json.dumps({"caption": "in the json", "url": "u"}).encode())
        add(tar, "001.jpg", b"second")
        add(tar, "001.txt", b"in a text")
        add(tar, "002.png", b"third")
        add(tar, "002.json", json.dumps({"id": "named", "conversations": TALK}).encode())
    for path in (tmp_path, tmp_path / "0.tar"):
        found = seen(open_records(path))
        assert [(row["id"], row["image"], row["conversations"][1]["value"], data) for row, data in found] == [
            ("000", "000.jpg", "in the json", b"first"),
            ("001", "001.jpg", "in a text", b"second"),
            ("named", "002.png", "A cup.", b"third"),
        ]


def test_no_sample_of_a_shard_is_passed_over(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        add(tar, "000.tiff", b"a scan")
        add(tar, "000.txt", b"words")
        add(tar, "001.json", json.dumps({"id": "text only", "conversations": talk}).encode())
        add(tar, "002.txt", b"neither image nor conversation")
    rows = list(open_records(tmp_path).rows())
    assert [(row["id"], row.get("image")) for row in rows] == [("000", "000.tiff"), ("text only", None), ("002", None)]
    assert "conversations" in rows[1] and "conversations" not in rows[2]
    for name, data in (("3.json", b"[1]"), ("3.json", b"{no"), ("3.txt", b"\xff")):
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            add(tar, "3.jpg", b"x")
            add(tar, name, data)
        with pytest.raises(InputError, match="cannot read the shards in .*0.tar, sample 3: "):
            list(open_records(tmp_path).rows())


def test_what_is_no_training_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="no training data in .*there is: notes.txt"):
        open_records(tmp_path)
    with pytest.raises(InputError, match="nowhere does not exist"):
        open_records(tmp_path / "nowhere")
    with pytest.raises(InputError, match="notes.txt is not a folder"):
        open_records(tmp_path, tmp_path / "notes.txt")
    (tmp_path / "cut.tar").write_bytes(b"no tar at all")
    with pytest.raises(InputError, match="cannot read the shards"):
        list(open_records(tmp_path / "cut.tar").rows())
