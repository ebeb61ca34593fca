"""Image-text pairs: what download and filter hand on. Read from `ledger.parquet`, so no image is touched to list them.

Every shards artifact of these stages has a ledger with at least these columns; a pair is a row whose status is `ok`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llavaflow.datasets._table import read_rows
from llavaflow.infra.errors import InputError, StoreError

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
    return list(Pairs(root))


class Pairs:
    """The pairs of a shards artifact in the order of ids, streamed from its ledger on every pass.

    Only the ids stay in memory, as one array of bytes: 3,000,000 pairs take about 100 MB.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / LEDGER
        if not self._path.exists():
            raise InputError(f"no {LEDGER} in {root}: give a stage that makes image-text pairs (download, filter).")
        names = [row["id"].encode() for row in read_rows(self._path, ["id", "status"]) if row["status"] == OK]
        self.ids = np.array(names, np.bytes_)
        if np.any(self.ids[:-1] >= self.ids[1:]):
            raise StoreError(f"{self._path} is not in the order of ids, each once: it was not written by this project.")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Pair]:
        for row in read_rows(self._path, [*COLUMNS, "status"], batch=4096):
            if row.pop("status") == OK:
                yield Pair(**row)

    def places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The place of each id, all of which must be there."""
        return np.searchsorted(self.ids, np.array([id.encode() for id in ids], self.ids.dtype))
