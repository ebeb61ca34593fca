"""Parquet tables row by row in constant memory: written so that a file appears only when it is complete, and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from llavaflow.infra.errors import InputError

ROWS_PER_GROUP = 50_000


class TableWriter:
    """`with TableWriter(path, schema) as table: table.add(row)`; an exception inside leaves no file."""

    def __init__(self, path: Path, schema: Any) -> None:
        self.path = path
        self.count = 0
        self._schema = schema
        self._scratch = path.with_name(f".{path.name}.part")
        self._rows: list[Mapping[str, Any]] = []
        self._writer: Any = None

    def __enter__(self) -> TableWriter:
        import pyarrow.parquet as pq

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._scratch, self._schema, compression="zstd")
        return self

    def add(self, row: Mapping[str, Any]) -> int:
        """Append a row and return its number."""
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()
        return self.count - 1

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            self._scratch.replace(self.path)
        else:
            self._scratch.unlink(missing_ok=True)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def column_names(path: Path) -> list[str]:
    """The columns of a parquet file. Raises InputError when it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def leaf_columns(path: Path) -> list[str]:
    """The columns of a parquet file down to the fields of its structs, as dotted paths (`image.path`)."""
    return [column.path for column in _leaves(path)]


def bytes_columns(path: Path) -> list[str]:
    """Those of them that hold bytes, which are neither texts nor numbers."""
    return [
        column.path
        for column in _leaves(path)
        if column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY") and column.logical_type.type == "NONE"
    ]


def _leaves(path: Path) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_metadata(path).schema
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    return [schema.column(number) for number in range(len(schema))]


def read_rows(path: Path, columns: Sequence[str] | None = None, *, batch: int = 512) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, `batch` at a time in memory. Raises InputError when it is none or breaks off."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            for part in table.iter_batches(batch_size=batch, columns=list(columns) if columns else None):
                yield from part.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"cannot read {path} as parquet: {error}. Fetch it again if it is cut off.")
