"""A parquet file written row by row in constant memory, which appears under its name only when it is complete."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

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
