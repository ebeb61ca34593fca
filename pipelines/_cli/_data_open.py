"""What `data check` and `data show` look at: a file, a folder of shards, or an artifact by any of its names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llavaflow.infra.errors import InputError

if TYPE_CHECKING:
    from llavaflow.datasets._records import Records
    from llavaflow.infra.store import ArtifactStore

FILE_SUFFIXES = (".json", ".jsonl", ".parquet", ".tar", ".gz")


def opened(text: str, images: Path | None, store: ArtifactStore) -> Records:
    """The training data of a path or a reference (`llava15/mix`). Raises InputError when there is none."""
    from llavaflow.datasets._records import open_records
    from llavaflow.infra.reference import find_reference

    path = Path(text).expanduser()
    if path.exists() or path.suffix in FILE_SUFFIXES:
        return open_records(path, images)
    found = find_reference(text, store)
    if found.artifact.kind not in ("shards", "mixture"):
        raise InputError(f"{text} is a {found.artifact.kind}, not training data: give a mixture or shards.")
    return open_records(found.path, images)
