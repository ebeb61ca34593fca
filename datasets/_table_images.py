"""The pictures that lie inside parquet tables, by the names that records use.

Tables of the hub hold their pictures as {bytes, path}, or as their bytes. A record names its picture by that path, by
its id, or by the file and the place of its row (`train-00000-000017.jpg`), since many have no path.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from llavaflow.datasets._index import NAME as INDEX
from llavaflow.datasets._records import next_rows
from llavaflow.datasets._shards import TABLE
from llavaflow.datasets._table import bytes_columns

# row groups held in memory: readers go forwards, on a few threads
GROUPS_KEPT = 3
# not every folder below: some hold a hundred thousand images
_PLACES = ("*.parquet", "data/*.parquet", "train/*.parquet", "*/train/*.parquet")
_BY_PLACE = re.compile(r"(.+)-(\d{6,})(?:_(\d+))?\.\w+")


def tables_with_pictures(path: Path) -> list[Path]:
    """The parquet files at a path that hold the bytes of pictures."""
    found = [path] if path.is_file() else sorted(file for place in _PLACES for file in path.glob(place))
    files = [file for file in found if file.suffix == ".parquet" and file.name not in (INDEX, TABLE)]
    return [file for file in files if any(re.fullmatch(r"image(\..+)?", name) for name in bytes_columns(file))]


class TableImages:
    """Pictures of tables, read a row group at a time; may be shared by threads."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = {file.stem: file for file in files}
        self._named: dict[str, tuple[Path, int, int]] | None = None
        self._lock = threading.Lock()
        self._group = lru_cache(GROUPS_KEPT)(_group)

    def has(self, name: str) -> bool:
        """Whether a picture of this name is in the tables."""
        return self._place(name) is not None

    def load(self, name: str) -> bytes | None:
        """The bytes of a picture, or None when it is not there."""
        with self._lock:
            place = self._place(name)
            if place is None:
                return None
            file, row, number = place
            for group, (start, end) in enumerate(_groups(file)):
                if start <= row < end:
                    held = self._group(file, group)[row - start]
                    pictures = held if isinstance(held, list) else [held]
                    picture = pictures[number] if number < len(pictures) else None
                    return picture.get("bytes") if isinstance(picture, dict) else picture
            return None

    def _place(self, name: str) -> tuple[Path, int, int] | None:
        """File, row and number among its pictures."""
        if self._named is None:
            self._named = {}
            for file in self._files.values():
                for row, record in enumerate(next_rows(file)):
                    held = record.get("image")
                    for number, own in enumerate(held if isinstance(held, list) else [held] if held else []):
                        self._named.setdefault(own, (file, row, number))
        if name in self._named:
            return self._named[name]
        last = PurePosixPath(name).name
        match = _BY_PLACE.fullmatch(last)
        if match and match.group(1) in self._files:
            file, row = self._files[match.group(1)], int(match.group(2))
            return (file, row, int(match.group(3) or 0)) if row < _groups(file)[-1][1] else None
        return self._named.get(last)


@lru_cache(256)
def _groups(file: Path) -> list[tuple[int, int]]:
    """First row and end of every row group."""
    import pyarrow.parquet as pq

    about = pq.read_metadata(file)
    ends = list(accumulate(about.row_group(number).num_rows for number in range(about.num_row_groups)))
    return list(zip([0, *ends], ends, strict=False))


def _group(file: Path, number: int) -> list[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        held: list[Any] = table.read_row_group(number, columns=["image"]).column("image").to_pylist()
        return held
