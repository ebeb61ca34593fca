"""The files of referring expressions: which of a folder are read, and their rows in any format.

The authors' folders hold a set under several splits (`refs(google).p` beside `refs(unc).p`). They cut the same
expressions in other ways, so one is read: UNC's, else UMD's, the ones that are published on.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llavaflow.datasets._raw import open_raw, rows
from llavaflow.datasets._records import next_rows
from llavaflow.datasets._source import Reading
from llavaflow.infra.errors import InputError

INSTANCES = ("instances.json", "instances.json.gz")
SPLITS = ("unc", "umd", "google")
_ENDINGS = (".p", ".json", ".jsonl", ".parquet", ".p.gz", ".json.gz", ".jsonl.gz")


def ref_files(path: Path, reading: Reading) -> list[Path]:
    """The files with expressions: `path` itself, or those in it and in its folders (one split per set)."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} does not exist. Give the folder that holds the raw files of refcoco.")
    found = [entry for entry in sorted(path.rglob("*")) if entry.name.endswith(_ENDINGS) and entry.is_file()]
    found = [entry for entry in found if entry.name not in INSTANCES]
    if not found:
        raise InputError(
            f"no refs(*).p, refs(*).json, *.jsonl or *.parquet under {path}. See `pipeline show source:refcoco`."
        )
    # of one folder the best split, and that once where it lies in two formats; other files are all read
    best: dict[Path, Path] = {}
    for file in sorted((file for file in found if _rank(file) < len(SPLITS)), key=_rank):
        best.setdefault(file.parent, file)
    kept = [file for file in found if _rank(file) == len(SPLITS) or best[file.parent] == file]
    if len(kept) < len(found):
        reading.repairs["other-split-left-aside"] += len(found) - len(kept)
    return kept


def _rank(file: Path) -> int:
    """Which of the authors' splits a file holds, the one to be read first; the last number for any other file."""
    return next((rank for rank, split in enumerate(SPLITS) if file.name.startswith(f"refs({split})")), len(SPLITS))


def named(files: list[Path]) -> Iterator[tuple[Path, str]]:
    """Each file with what its ids are prefixed by: the sets number their refs alike."""
    folders = Counter(file.parent for file in files)
    for file in files:
        alone = file.parent.name if folders[file.parent] == 1 else file.name
        yield file, "" if len(files) == 1 else f"{alone}/"


def has_refs(file: Path) -> bool:
    """Whether rows are the authors' refs, whose boxes stand elsewhere."""
    first = next(iter(ref_rows(file)), None)
    return isinstance(first, Mapping) and "sentences" in first and "bbox" not in first


def ref_rows(file: Path) -> Iterable[Any]:
    """The rows of a file, whatever its format."""
    if file.suffix == ".parquet":
        return next_rows(file)
    return _unpickled(file) if file.name.removesuffix(".gz").endswith(".p") else rows(file)


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles lists, dicts, texts and numbers; anything that would import code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _unpickled(file: Path) -> list[Any]:
    with open_raw(file) as stream:
        data = stream.read()
    try:
        refs = _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        raise InputError(f"{file} is not a pickle of plain lists and dicts: {error}. It was not loaded.") from error
    if not isinstance(refs, list):
        raise InputError(f"{file} holds no list of refs but {type(refs).__name__}.")
    return refs
