"""Image shards: equal input gives equal bytes, and every image can be read by name."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest

from llavaflow.datasets._index import read_row
from llavaflow.datasets._shards import ImageTable, ShardWriter, read_shards
from llavaflow.infra.errors import StoreError

PICTURES = {f"part/{n:03d}.{'png' if n % 2 else 'jpg'}": bytes([n]) * (n * 401 + 1) for n in range(7)}


def write(root: Path) -> list[tuple[str, str, int]]:
    with ShardWriter(root, per_shard=3) as shards:
        placed = [
            shards.add(name, data, {"n": len(data), "text": "\u00e9" * n}, width=n + 1, height=2)
            for n, (name, data) in enumerate(PICTURES.items())
        ]
    return [(item.image, item.file, item.row) for item in placed]


def test_every_image_is_found_by_name_and_by_row(tmp_path: Path) -> None:
    placed = write(tmp_path)
    table = ImageTable(tmp_path)
    for name, file, row in placed:
        assert table.open(name) == PICTURES[name] == read_row(tmp_path, file, row)
        assert table.sha256(name) == hashlib.sha256(PICTURES[name]).hexdigest()
    assert table.size("part/003.png") == (4, 2)
    assert len(table) == 7 and list(table) == list(PICTURES) and "part/003.png" in table
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]


def test_two_writers_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    write(tmp_path / "b")
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*")) if path.is_file()]
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_shards_are_plain_webdataset(tmp_path: Path) -> None:
    write(tmp_path)
    samples = list(read_shards(tmp_path))
    assert [f"{sample.key}.{sample.extension}" for sample in samples] == list(PICTURES)
    assert samples[2].image == PICTURES["part/002.jpg"] and samples[2].meta == {"n": 803, "text": "\u00e9\u00e9"}


def test_a_table_travels_to_a_worker_opened(tmp_path: Path) -> None:
    write(tmp_path)
    table = ImageTable(tmp_path)
    table.open("part/001.png")
    assert pickle.loads(pickle.dumps(table)).open("part/001.png") == PICTURES["part/001.png"]
    table.close()
    assert table.open("part/001.png") == PICTURES["part/001.png"]


def test_unknown_and_repeated_names_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as shards:
        shards.add("a.jpg", b"x", {}, width=1, height=1)
        with pytest.raises(ValueError, match="taken"):
            shards.add("a.png", b"x", {}, width=1, height=1)
        assert "a.jpg" in shards and "b.jpg" not in shards
    with pytest.raises(StoreError, match="no image 'b.jpg'"):
        ImageTable(tmp_path).open("b.jpg")
    with pytest.raises(StoreError, match="no image table"):
        ImageTable(tmp_path / "elsewhere").size("a.jpg")


def test_no_images_is_an_empty_table(tmp_path: Path) -> None:
    with ShardWriter(tmp_path):
        pass
    assert len(ImageTable(tmp_path)) == 0 and list(read_shards(tmp_path)) == []
