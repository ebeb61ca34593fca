"""Training data in every form in which it lies: rows of LLaVA JSON, and the images that they name.

    x.json, x.jsonl, x.parquet     LLaVA JSON; a parquet in the form of LLaVA-NeXT carries its images
    a folder with data.jsonl       an artifact: a mixture, captions, instructions, own data
    a folder with ledger.parquet   an artifact of image-text pairs: a download, a filter
    a folder of *.tar, one .tar    webdataset shards, with conversations or a caption beside each image
    a folder of *.parquet          the shards of a NeXT-like set, in the order of their names

A pair is shown as the record that stage 1 makes of it: `<image>`, and the text as its answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llavaflow.datasets._images import ImageFolder
from llavaflow.datasets._index import NAME as INDEX
from llavaflow.datasets._raw import rows
from llavaflow.datasets._sample import IMAGE_TOKEN
from llavaflow.datasets._shards import FOLDER, TABLE, ImageTable, read_shards
from llavaflow.datasets._table import bytes_columns, leaf_columns, read_rows
from llavaflow.infra.errors import InputError

DATA, LEDGER = "data.jsonl", "ledger.parquet"
# what lies beside the data of an artifact
_OURS = (INDEX, TABLE)
_JSON = (str, int, float, list, dict, type(None))
# more than any reader of rows holds before it looks at their images
_ROWS_KEPT = 512


class Images(Protocol):
    """Image bytes by the name that a record uses."""

    def load(self, name: str) -> bytes | None:
        """The bytes of an image, or None when it is not there."""


class PassingImages:
    """The images of rows that carry their own: those of the last rows stay, so that what was read can be looked at."""

    def __init__(self) -> None:
        self._rows: deque[dict[str, bytes]] = deque(maxlen=_ROWS_KEPT)

    def put(self, images: dict[str, bytes]) -> None:
        """Keep the images of the next row."""
        self._rows.append(images)

    def load(self, name: str) -> bytes | None:
        return next((row[name] for row in reversed(self._rows) if name in row), None)


@dataclass(frozen=True, kw_only=True)
class Records:
    """An opened set. `rows()` starts a pass from the first row; a row that cannot be parsed comes as `Bad`.

    images  None when the set has none of its own and no folder was given
    """

    path: Path
    form: str
    rows: Callable[[], Iterator[Any]]
    images: Images | None


def open_records(path: Path, folder: Path | None = None) -> Records:
    """The set at a path; `folder` is where its image paths start from. Raises InputError when there is none."""
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Give the folder that the image paths start from.")
    given = ImageFolder(folder) if folder else None
    if path.is_file():
        return _opened_file(path, given)
    if not path.is_dir():
        raise InputError(f"{path} does not exist. {_FORMS}")
    table = ImageTable(path) if (path / TABLE).exists() else None
    if (path / DATA).exists():
        return Records(path=path, form="artifact", rows=lambda: rows(path / DATA), images=given or table)
    if (path / LEDGER).exists():
        return Records(path=path, form="pairs", rows=lambda: _pairs(path / LEDGER), images=given or table)
    if any(path.glob("*.tar")) or any(path.glob(f"{FOLDER}/*.tar")):
        return _shards(path, given)
    found = {*path.glob("*.parquet"), *path.glob("data/*.parquet")}
    tables = sorted(file for file in found if file.name not in _OURS)
    if tables:
        return _tables(path, tables, given)
    there = ", ".join(sorted(entry.name for entry in path.iterdir())[:12]) or "nothing"
    raise InputError(f"no training data in {path} (there is: {there}). {_FORMS}")


_FORMS = (
    "Give a LLaVA JSON list, JSON lines or parquet file, a folder of *.tar or *.parquet shards, or an artifact of "
    "image-text pairs or conversations."
)


def _opened_file(path: Path, given: ImageFolder | None) -> Records:
    if path.suffix == ".tar":
        return _shards(path, given)
    if path.suffix == ".parquet":
        return _tables(path, [path], given)
    return Records(path=path, form="json", rows=lambda: rows(path), images=given)


def _pairs(ledger: Path) -> Iterator[dict[str, Any]]:
    """The pairs of an artifact as records, in the order of its ledger."""
    for row in read_rows(ledger, ["id", "image", "caption", "status"]):
        if row["status"] == "ok":
            yield _pair(row["id"], row["image"], row["caption"])


def _pair(id: str, image: str, caption: Any) -> dict[str, Any]:
    talk = [{"from": "human", "value": IMAGE_TOKEN}, {"from": "gpt", "value": caption or ""}]
    return {"id": id, "image": image, "conversations": talk}


def _shards(path: Path, given: ImageFolder | None) -> Records:
    passing = PassingImages()

    def passed() -> Iterator[Any]:
        for sample in read_shards(path, bare=True):
            if not sample.extension:
                # a record without an image, or something that is told as none
                yield {"id": sample.key, **sample.meta}
                continue
            record = {"id": sample.key, "image": f"{sample.key}.{sample.extension}", **sample.meta}
            passing.put({str(record["image"]): sample.image})
            if "conversations" not in record:
                said = (record[key] for key in ("caption", "text", "TEXT") if isinstance(record.get(key), str))
                record = _pair(str(record["id"]), str(record["image"]), sample.text or next(said, ""))
            yield record

    return Records(path=path, form="shards", rows=passed, images=given or passing)


def _tables(path: Path, files: list[Path], given: ImageFolder | None) -> Records:
    passing = PassingImages()

    def passed() -> Iterator[Any]:
        for file in files:
            yield from next_rows(file, passing.put)

    return Records(path=path, form="parquet", rows=passed, images=given or passing)


def next_rows(file: Path, put: Callable[[dict[str, bytes]], None] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a parquet of LLaVA-NeXT with the names of their images; without `put` for the bytes, none are read.

    Its image column holds {bytes, path}, the bytes alone, or a list of them; a picture without a path is named after
    its record, or by its place where records have no id. What JSON has no form for (dates, decimals) comes as text.
    """
    columns = _columns(file, pictures=put is not None)
    for place, row in enumerate(read_rows(file, columns, batch=64 if put else 512)):
        held = row.pop("image", None)
        pictures = held if isinstance(held, list) else [held] if held else []
        pictures = [{"bytes": picture} if isinstance(picture, bytes) else picture for picture in pictures]
        names = [
            _name(picture) or f"{row.get('id', f'{file.stem}-{place:06d}')}{f'_{number}' if number else ''}.jpg"
            for number, picture in enumerate(pictures)
        ]
        if put:
            put({name: picture["bytes"] for name, picture in zip(names, pictures, strict=True) if _has_bytes(picture)})
        if names:
            row["image"] = names if isinstance(held, list) else names[0]
        yield {name: cell if isinstance(cell, _JSON) else str(cell) for name, cell in row.items()}


def _has_bytes(picture: Any) -> bool:
    return isinstance(picture, Mapping) and isinstance(picture.get("bytes"), bytes)


def _name(picture: Any) -> str:
    return str((picture.get("path") or "") if isinstance(picture, Mapping) else picture)


def _columns(file: Path, *, pictures: bool) -> list[str]:
    """The columns of a table that a record can hold, and those of its pictures: whole, or their paths alone.

    Other bytes (a thumbnail) have no place in JSON. Without a path, bytes stand for the picture.
    """
    columns = leaf_columns(file)
    own = [name for name in columns if name.split(".")[0] == "image"]
    if not pictures and any(name.endswith(".path") for name in own):
        own = [name for name in own if name.endswith(".path")]
    others = set(columns) - set(bytes_columns(file))
    return [name for name in columns if name in own or (name in others and name.split(".")[0] != "image")]
