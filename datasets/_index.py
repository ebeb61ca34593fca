"""The record index of an artifact: one parquet row per record made or dropped, and the way back to its bytes.

Every stage that makes or drops records writes `index.parquet` beside its files. `parents` name rows of the indexes of
the input artifacts as `<fingerprint>:<id>`, so a benchmark row can be walked back to a URL and forward again.

`file` and `row` say where the record lies, and `read_row` returns exactly the bytes that `sha256` covers:

    x.tar           the image of sample number `row`
    x.jsonl         the bytes of line `row`, without its newline
    x.parquet       row `row`, as canonical JSON
    x.json#a.b      element `row` (in file order) of the list or mapping at that dotted path, as canonical JSON
    anything else   the whole file (row 0)

A record that was dropped has its reason in `dropped`; a record with no file has `file` "" and row -1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import tarfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from llavaflow.datasets._table import TableWriter
from llavaflow.infra.errors import StoreError
from llavaflow.infra.fingerprint import canonical

NAME = "index.parquet"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


def schema() -> Any:
    """The arrow schema of every index."""
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("parents", pa.list_(pa.string())),
            ("source", pa.string()),
            ("url", pa.string()),
            ("sha256", pa.string()),
            ("dropped", pa.string()),
            ("file", pa.string()),
            ("row", pa.int64()),
        ]
    )


class IndexWriter:
    """Writes an index row by row in constant memory; the file appears under its name only when it is complete."""

    def __init__(self, root: Path) -> None:
        self._table = TableWriter(root / NAME, schema())

    @property
    def count(self) -> int:
        return self._table.count

    def __enter__(self) -> IndexWriter:
        self._table.__enter__()
        return self

    def add(
        self,
        id: str,
        *,
        source: str,
        parents: Sequence[str] = (),
        url: str | None = None,
        sha256: str | None = None,
        dropped: str | None = None,
        file: str = "",
        row: int = -1,
    ) -> None:
        self._table.add(
            {
                "id": id,
                "parents": list(parents),
                "source": source,
                "url": url,
                "sha256": sha256,
                "dropped": dropped,
                "file": file,
                "row": row,
            }
        )

    def __exit__(self, *raised: Any) -> None:
        self._table.__exit__(*raised)


def read_index(root: Path, columns: Sequence[str] | None = None) -> Any:
    """The index of an artifact as an arrow table."""
    import pyarrow.parquet as pq

    path = root / NAME
    if not path.exists():
        raise StoreError(f"no record index at {path}: the artifact is incomplete or is not a data artifact.")
    return pq.read_table(path, columns=list(columns) if columns else None)


def record_bytes(record: Any) -> bytes:
    """The bytes hashed for a JSON or parquet record: canonical JSON, binary as base64, NaN as null."""
    return canonical(_jsonable(record))


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_row(root: Path, file: str, row: int) -> bytes:
    """The bytes of one record. Raises StoreError when the file or the row does not exist."""
    name, _, pointer = file.partition("#")
    path = root / name
    if not name or row < 0 or not path.is_file():
        raise StoreError(f"no record {row} in '{file}' under {root}: the file is not there.")
    try:
        if "#" in file:
            return record_bytes(_element(_document(path, path.stat().st_mtime_ns), pointer, row))
        if path.suffix == ".jsonl":
            return _line(path, row)
        if path.suffix == ".parquet":
            return record_bytes(_parquet_row(path, row))
        if path.suffix == ".tar":
            return _tar_image(path, row)
        return _whole(path, row)
    except (LookupError, StopIteration) as error:
        raise StoreError(f"no record {row} in {root / file}: {error or 'too few records'}.") from error


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


@lru_cache(maxsize=4)
def _document(path: Path, _changed_ns: int) -> Any:
    return json.loads(path.read_bytes())


def _element(document: Any, pointer: str, row: int) -> Any:
    for part in filter(None, pointer.split(".")):
        document = document[int(part)] if isinstance(document, list) else document[part]
    if isinstance(document, Mapping):
        return next(islice(document.values(), row, None))
    return document[row]


def _line(path: Path, row: int) -> bytes:
    with path.open("rb") as stream:
        return next(islice(stream, row, None)).rstrip(b"\r\n")


def _parquet_row(path: Path, row: int) -> dict[str, Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if row < rows:
                record: dict[str, Any] = table.read_row_group(group).slice(row, 1).to_pylist()[0]
                return record
            row -= rows
    raise IndexError("too few rows")


def _tar_image(path: Path, row: int) -> bytes:
    """The image of the row-th sample: a sample is a run of members that share the name up to the first dot."""
    key, ordinal = None, -1
    with tarfile.open(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            current = str(name.parent / name.name.split(".")[0])
            if current != key:
                key, ordinal = current, ordinal + 1
            if ordinal == row and name.suffix.lower() in IMAGE_SUFFIXES:
                stream = tar.extractfile(member)
                assert stream is not None, "an image member is a regular file"
                return stream.read()
            if ordinal > row:
                break
    raise IndexError("too few samples, or one without an image")


def _whole(path: Path, row: int) -> bytes:
    if row != 0:
        raise IndexError("a plain file holds one record, row 0")
    return path.read_bytes()
