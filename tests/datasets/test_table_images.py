"""Pictures inside parquet tables: found by path, by id and by place, in any order."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llavaflow.datasets._table_images import TableImages, tables_with_pictures


def write(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=3)


def test_pictures_by_path_by_id_and_by_place(tmp_path: Path) -> None:
    def picture(data: str, path: str | None = None) -> dict[str, object]:
        return {"bytes": data.encode(), "path": path}

    data = tmp_path / "data"
    write(data / "train-00000.parquet", [{"image": picture(str(n))} for n in range(10)])
    write(data / "named.parquet", [{"id": n, "image": picture(f"n{n}", f"a/{n}.png")} for n in range(4)])
    write(data / "ids.parquet", [{"id": f"x{n}", "image": [picture(f"i{n}")]} for n in range(4)])
    write(data / "none.parquet", [{"text": "no picture"}])
    files = tables_with_pictures(tmp_path)
    assert [file.stem for file in files] == ["ids", "named", "train-00000"]
    images = TableImages(files)
    for place in (9, 0, 4, 3, 2):
        assert images.load(f"synthdog-en/train-00000-{place:06d}.jpg") == b"%d" % place
    assert images.load("a/2.png") == b"n2" and images.load("x3.jpg") == b"i3"
    assert images.load("train-00000-000010.jpg") is None and images.load("other.jpg") is None
    assert images.has("a/2.png") and not images.has("a/9.png")
