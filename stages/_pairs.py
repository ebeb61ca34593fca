"""Image-text pairs: what download and filter hand on. Read from `ledger.parquet`, so no image is touched to list them.

Every shards artifact of these stages has a ledger with at least these columns; a pair is a row whose status is `ok`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llavaflow.infra.errors import InputError

LEDGER = "ledger.parquet"
COLUMNS = ("id", "url", "caption", "image", "width", "height", "sha256")
OK = "ok"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One image with its text; `image` is its name in the artifact's image table, `sha256` that of its bytes."""

    id: str
    image: str
    caption: str
    url: str | None
    width: int
    height: int
    sha256: str


def read_pairs(root: Path) -> list[Pair]:
    """The pairs of a shards artifact, in the order of ids."""
    import pyarrow.parquet as pq

    path = root / LEDGER
    if not path.exists():
        raise InputError(f"no {LEDGER} in {root}: give a stage that makes image-text pairs (download, filter).")
    table = pq.read_table(path, columns=[*COLUMNS, "status"], filters=[("status", "=", OK)]).drop_columns("status")
    return sorted((Pair(**row) for row in table.to_pylist()), key=lambda pair: pair.id)
