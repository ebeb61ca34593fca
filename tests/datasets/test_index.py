"""The record index: what is written can be located and its digest checked, whatever the file type."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llavaflow.datasets._index import NAME, IndexWriter, read_index, read_row, record_bytes
from llavaflow.infra.errors import StoreError


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    with IndexWriter(tmp_path) as index:
        index.add("a", source="coco", parents=["f00:1", "f00:2"], sha256="s", file="data.jsonl", row=4)
        index.add("b", source="urls", url="http://x.test/1", dropped="http-404")
    first, second = read_index(tmp_path).to_pylist()
    assert first["parents"] == ["f00:1", "f00:2"] and first["row"] == 4 and first["url"] is None
    assert second["dropped"] == "http-404" and second["file"] == "" and second["parents"] == []


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), IndexWriter(tmp_path) as index:
        index.add("a", source="coco")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_empty_index_is_an_index(tmp_path: Path) -> None:
    with IndexWriter(tmp_path):
        pass
    assert (tmp_path / NAME).exists() and read_index(tmp_path).num_rows == 0


def test_locates_lines_elements_rows_and_files(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes('{"a": 1}\n{"b":  "\u00e9"}\n'.encode())
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [{"id": 7}, {"id": 8}], "q": {"x": 1, "y": {"z": 2}}}))
    table = pa.table({"n": [1, 2, 3], "blob": [b"\x00", None, b"\xff"]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    (tmp_path / "one.jpg").write_bytes(b"jpeg")
    assert read_row(tmp_path, "data.jsonl", 1) == '{"b":  "\u00e9"}'.encode()
    assert read_row(tmp_path, "a.json#annotations", 1) == b'{"id":8}'
    assert read_row(tmp_path, "a.json#q", 1) == b'{"z":2}'
    assert read_row(tmp_path, "a.json#", 0) == b'[{"id":7},{"id":8}]'
    assert read_row(tmp_path, "t.parquet", 2) == record_bytes({"blob": b"\xff", "n": 3})
    assert read_row(tmp_path, "one.jpg", 0) == b"jpeg"


def test_locates_the_image_of_a_tar_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in [("a.json", b"{}"), ("a.png", b"A"), ("d/b.jpg", b"B"), ("d/b.json", b"{}")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert [read_row(tmp_path, "x.tar", row) for row in (0, 1)] == [b"A", b"B"]
    with pytest.raises(StoreError, match="no record 2"):
        read_row(tmp_path, "x.tar", 2)


@pytest.mark.parametrize("file,row", [("data.jsonl", 9), ("gone.jsonl", 0), ("a.json#nope", 0), ("", -1)])
def test_a_missing_row_is_one_clear_error(tmp_path: Path, file: str, row: int) -> None:
    (tmp_path / "data.jsonl").write_text("{}\n")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(StoreError, match="no record"):
        read_row(tmp_path, file, row)


def test_the_digest_does_not_depend_on_key_order() -> None:
    one, two = record_bytes({"b": 1, "a": [float("nan")]}), record_bytes({"a": [None], "b": 1})
    assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()
