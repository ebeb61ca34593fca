"""Image shards: webdataset tars that are the same bytes every time, and random access into them.

A data artifact keeps its images as `shards/00000.tar` (`<key>.jpg` and `<key>.json` per sample, readable by any
webdataset loader) and one `images.parquet` that says for every image name which tar, at which offset, how long, how
large in pixels and with which digest. A record's `image` field is that name, so a shuffled training run reads single
images with one `pread` and no unpacking.

Tars carry fixed owners and times and are written in the order of `add`: equal input gives equal bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from llavaflow.datasets._index import sha256_bytes
from llavaflow.datasets._table import TableWriter
from llavaflow.infra.errors import InputError, StoreError
from llavaflow.infra.fingerprint import canonical

TABLE = "images.parquet"
FOLDER = "shards"
HEADER_BYTES = 512
EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Where an image was written: its name in records, and its row for the index."""

    image: str
    file: str
    row: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSample:
    """One sample read back from a shard; `text` is the content of its .txt. Without an image, its extension is ""."""

    key: str
    image: bytes
    extension: str
    meta: dict[str, Any]
    text: str = ""


class ShardWriter:
    """Writes `shards/*.tar` and `images.parquet` under a root; what an earlier, killed writer left is replaced."""

    def __init__(self, root: Path, *, per_shard: int = 1000) -> None:
        self.root = root
        self.per_shard = per_shard
        self.bytes = 0
        self._table = _image_table(root)
        self._keys: set[str] = set()
        self._stream: Any = None
        self._tar: Any = None
        self._file = ""
        self._row = 0

    def __enter__(self) -> ShardWriter:
        shutil.rmtree(self.root / FOLDER, ignore_errors=True)
        (self.root / TABLE).unlink(missing_ok=True)
        (self.root / FOLDER).mkdir(parents=True)
        self._table.__enter__()
        return self

    def add(self, image: str, data: bytes, meta: Mapping[str, Any], *, width: int, height: int) -> Placed:
        """Append an image under the name that records will use; the key in the tar is that name without suffix.

        Width and height are those of the image as it is shown (upright): token counts follow from them.
        """
        name = PurePosixPath(image)
        extension = name.suffix.lstrip(".").lower()
        key = str(name.with_suffix(""))
        if key in self._keys or not extension or "." in name.stem:
            raise ValueError(f"image name '{image}' is taken or is not a name with exactly one suffix")
        self._keys.add(key)
        if self._tar is None or self._row >= self.per_shard:
            self._open_next()
        offset, row = self._append(key, extension, data, meta), self._row
        self._row += 1
        self.bytes += len(data)
        digest = sha256_bytes(data)
        self._table.add(
            {"image": image, "file": self._file, "offset": offset, "size": len(data)}
            | {"width": width, "height": height, "sha256": digest}
        )
        return Placed(image=image, file=self._file, row=row, sha256=digest)

    def __contains__(self, image: str) -> bool:
        return str(PurePosixPath(image).with_suffix("")) in self._keys

    def __len__(self) -> int:
        return self._table.count

    def __exit__(self, *raised: Any) -> None:
        self._close_shard()
        self._table.__exit__(*raised)

    def _open_next(self) -> None:
        from webdataset import TarWriter

        self._close_shard()
        number = len(list((self.root / FOLDER).iterdir()))
        self._file, self._row = f"{FOLDER}/{number:05d}.tar", 0
        self._stream = (self.root / self._file).open("wb")
        # a time that is not an integer would add an extended header before every member
        self._tar = TarWriter(self._stream, user="", group="", encoder=False, mtime=0)

    def _append(self, key: str, extension: str, data: bytes, meta: Mapping[str, Any]) -> int:
        """Write one sample and return the offset of the image bytes. TarWriter writes members in order of suffix."""
        start: int = self._tar.tarstream.offset
        text = canonical(dict(meta))
        self._tar.write({"__key__": key, extension: data, "json": text})
        before = _member_bytes(len(text)) if "json" < extension else 0
        return start + before + HEADER_BYTES

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._stream.close()
            self._tar = None


def _image_table(root: Path) -> TableWriter:
    """`images.parquet`: image, file, offset, size, width, height, sha256."""
    import pyarrow as pa

    numbers = [(name, pa.int64()) for name in ("offset", "size", "width", "height")]
    columns = [("image", pa.string()), ("file", pa.string()), *numbers, ("sha256", pa.string())]
    return TableWriter(root / TABLE, pa.schema(columns))


class ImageTable:
    """Random access to the images of an artifact by their name; cheap to pickle to workers, opened on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __reduce__(self) -> tuple[type[ImageTable], tuple[Path]]:
        return (ImageTable, (self.root,))

    def __contains__(self, image: str) -> bool:
        return image in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def open(self, image: str) -> bytes:
        """The bytes of an image. Raises StoreError when the artifact has no such image."""
        row = self._row(image)
        file = self._columns["file"][row].as_py()
        if file not in self._descriptors:
            self._descriptors[file] = os.open(self.root / file, os.O_RDONLY)
        return os.pread(self._descriptors[file], self._number("size", row), self._number("offset", row))

    def load(self, name: str) -> bytes | None:
        """The bytes of an image, or None when the artifact has none of this name."""
        return self.open(name) if name in self else None

    def size(self, image: str) -> tuple[int, int]:
        """Width and height in pixels of the upright image, without touching it."""
        row = self._row(image)
        return self._number("width", row), self._number("height", row)

    def sha256(self, image: str) -> str:
        return str(self._columns["sha256"][self._row(image)].as_py())

    def close(self) -> None:
        for descriptor in self.__dict__.pop("_descriptors", {}).values():
            os.close(descriptor)

    def _row(self, image: str) -> int:
        row = self._rows.get(image)
        if row is None:
            raise StoreError(f"no image '{image}' in {self.root / TABLE} ({len(self._rows)} images).")
        return row

    def _number(self, column: str, row: int) -> int:
        return int(self._columns[column][row].as_py())

    @cached_property
    def _columns(self) -> dict[str, Any]:
        import pyarrow.parquet as pq

        path = self.root / TABLE
        if not path.exists():
            raise StoreError(f"no image table at {path}: the artifact is incomplete or holds no images.")
        table = pq.read_table(path)
        return {name: table.column(name).combine_chunks() for name in table.column_names}

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._columns["image"].to_pylist())}

    @cached_property
    def _descriptors(self) -> dict[str, int]:
        return {}


def read_shards(root: Path, *, bare: bool = False) -> Iterator[ShardSample]:
    """Every sample of webdataset tars (an artifact, a plain folder of tars, or one tar), in file order.

    Those without an image come only if `bare`. Raises InputError, with tar and sample, when a tar, or the JSON or text
    beside an image in it, cannot be read.
    """
    from webdataset import WebDataset

    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    tars = [str(path) for path in sorted(folder.glob("*.tar"))] if folder.is_dir() else [str(root)]
    if not tars:
        return
    samples = iter(WebDataset(tars, shardshuffle=False, empty_check=False))
    while True:
        try:
            sample = next(samples, None)
        except (ValueError, OSError, tarfile.TarError) as error:
            told = f"cannot read the shards in {root}: {error}. Fetch them again if one is cut off."
            raise InputError(told) from error
        if sample is None:
            return
        extension = next((name for name in sample if name in EXTENSIONS), "")
        if not extension and not bare:
            continue
        try:
            meta, text = json.loads(sample.get("json", b"{}")), sample.get("txt", b"").decode()
            if not isinstance(meta, dict):
                raise ValueError("its .json is no mapping")
        except ValueError as error:
            place = f"{sample['__url__']}, sample {sample['__key__']}"
            raise InputError(f"cannot read the shards in {root}: {place}: {error}.") from error
        image = sample[extension] if extension else b""
        yield ShardSample(key=sample["__key__"], image=image, extension=extension, meta=meta, text=text)


def _member_bytes(size: int) -> int:
    return HEADER_BYTES + (size + HEADER_BYTES - 1) // HEADER_BYTES * HEADER_BYTES
