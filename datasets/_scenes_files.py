"""Writes the files of the generated world and indexes each record as it goes.

A row of the index is named `<source>:<table>/<id of the record>` (`vqav2:question/12`, `coco:image/000000000001.jpg`):
the table says which of a source's files the record stands in, the id is the one that the file itself uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llavaflow.datasets._index import IndexWriter, record_bytes, sha256_bytes


class WorldFiles:
    """The folder of a world in the making, with its index."""

    def __init__(self, root: Path, index: IndexWriter) -> None:
        self.root = root
        self.index = index
        self.counts: dict[str, int] = {}

    def image(self, source: str, path: str, data: bytes) -> None:
        """One picture of a source."""
        self.write(path, data)
        name = Path(path).name
        self.index.add(f"{source}:image/{name}", source=source, sha256=sha256_bytes(data), file=path, row=0)
        self._count(source, "images")

    def write(self, path: str, data: bytes) -> None:
        """A file that is no record by itself."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def document(self, source: str, path: str, document: Any, tables: Mapping[str, tuple[str, str | None]]) -> None:
        """A JSON file. `tables` maps a pointer in it to (table name, id field); without a field the key is the id."""
        self.write(path, json.dumps(document, ensure_ascii=False).encode())
        for pointer, (table, field) in tables.items():
            records = document[pointer] if pointer else document
            keyed = isinstance(records, Mapping)
            for row, item in enumerate(records):
                record = records[item] if keyed else item
                name = item if keyed and field is None else record[field or "id"]
                self._row(source, f"{table}/{name}", f"{path}#{pointer}", row, record_bytes(record))

    def lines(self, source: str, path: str, records: Sequence[Mapping[str, Any]], name: Callable[[int], str]) -> None:
        """A file of JSON lines; `name` gives the id of a row."""
        encoded = [json.dumps(record, ensure_ascii=False).encode() for record in records]
        self.write(path, b"".join(line + b"\n" for line in encoded))
        for row, line in enumerate(encoded):
            self._row(source, name(row), path, row, line)

    def url_table(self, path: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A parquet table of URL and TEXT, the form that img2dataset reads."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), target)
        for row, record in enumerate(rows):
            digest = sha256_bytes(record_bytes(record))
            self.index.add(f"urls:row/{row}", source="urls", url=record["URL"], sha256=digest, file=path, row=row)
            self._count("urls", "records")

    def _row(self, source: str, name: str, file: str, row: int, data: bytes) -> None:
        self.index.add(f"{source}:{name}", source=source, sha256=sha256_bytes(data), file=file, row=row)
        self._count(source, "records")

    def _count(self, source: str, what: str) -> None:
        key = f"{source}_{what}"
        self.counts[key] = self.counts.get(key, 0) + 1
