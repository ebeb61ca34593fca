"""The download ledger: one parquet row per distinct URL with its status, reason, digests and size.

It is what a refresh reads to know which URLs it may keep, what the histogram of reasons counts, and what the index
points at for a URL that gave no image.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from llavaflow.datasets._index import record_bytes, sha256_bytes
from llavaflow.datasets._shards import ImageTable
from llavaflow.stages._fetch import Fetched

NAME = "ledger.parquet"
ROWS_PER_GROUP = 50_000


def _schema() -> Any:
    import pyarrow as pa

    texts = ("id", "url", "caption", "status", "reason", "detail", "image", "sha256", "fetched_sha256")
    return pa.schema([(name, pa.string()) for name in texts] + [("width", pa.int64()), ("height", pa.int64())])


class LedgerWriter:
    """Writes the ledger row by row; `add` returns the row number and the digest for the index."""

    def __init__(self, root: Path) -> None:
        self.count = 0
        self._path = root / NAME
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def __enter__(self) -> LedgerWriter:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(self._path, _schema(), compression="zstd")
        return self

    def add(self, url: str, caption: str, fetched: Fetched, image: str | None, sha256: str | None) -> tuple[int, str]:
        row = {
            "id": fetched.id,
            "url": url,
            "caption": caption,
            "status": "ok" if fetched.reason is None else "failed",
            "reason": fetched.reason,
            "detail": fetched.detail,
            "image": image,
            "sha256": sha256,
            "fetched_sha256": fetched.fetched_sha256,
            "width": fetched.width,
            "height": fetched.height,
        }
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()
        return self.count - 1, sha256_bytes(record_bytes(row))

    def __exit__(self, _: type[BaseException] | None, __: object, ___: TracebackType | None) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=_schema()))
            self._rows = []


def read_successes(root: Path, wanted: Collection[str]) -> list[Fetched]:
    """The images that an earlier download of these ids already has, in the order of ids."""
    import pyarrow.parquet as pq

    images = ImageTable(root)
    rows = (row for row in pq.read_table(root / NAME).to_pylist() if row["status"] == "ok" and row["id"] in wanted)
    return [
        Fetched(
            id=row["id"],
            reason=None,
            fetched_sha256=row["fetched_sha256"],
            width=row["width"],
            height=row["height"],
            load=partial(images.open, row["image"]),
        )
        for row in rows
    ]
