"""The download ledger: one parquet row per distinct URL with its status, reason, digests and size.

It is what a refresh reads to know which URLs it may keep, what the histogram of reasons counts, and what the index
points at for a URL that gave no image.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from llavaflow.datasets._shards import ImageTable
from llavaflow.datasets._table import TableWriter
from llavaflow.stages._fetch import Fetched
from llavaflow.stages._pairs import LEDGER, OK


def ledger_writer(root: Path) -> TableWriter:
    import pyarrow as pa

    texts = ("id", "url", "caption", "status", "reason", "detail", "image", "sha256", "fetched_sha256")
    numbers = [(name, pa.int64()) for name in ("width", "height")]
    return TableWriter(root / LEDGER, pa.schema([(name, pa.string()) for name in texts] + numbers))


def ledger_row(url: str, caption: str, fetched: Fetched, image: str | None, sha256: str | None) -> dict[str, Any]:
    return {
        "id": fetched.id,
        "url": url,
        "caption": caption,
        "status": OK if fetched.reason is None else "failed",
        "reason": fetched.reason,
        "detail": fetched.detail,
        "image": image,
        "sha256": sha256,
        "fetched_sha256": fetched.fetched_sha256,
        "width": fetched.width,
        "height": fetched.height,
    }


def read_successes(root: Path, wanted: Collection[str]) -> list[Fetched]:
    """The images that an earlier download of these ids already has, in the order of ids."""
    import pyarrow.parquet as pq

    images = ImageTable(root)
    rows = (row for row in pq.read_table(root / LEDGER).to_pylist() if row["status"] == OK and row["id"] in wanted)
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
