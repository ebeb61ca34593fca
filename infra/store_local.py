"""A store in a folder: the default. Publishing is one rename, so an artifact is there whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from llavaflow.infra import record as records
from llavaflow.infra.backend import Blob, storage_errors
from llavaflow.infra.record import FileEntry


class FolderBackend:
    """Keys are paths under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()

    @property
    def url(self) -> str:
        return str(self.root)

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    def place(self, prefix: str) -> str:
        return str(self.root / prefix)

    def read(self, key: str) -> Blob | None:
        with storage_errors(self.root):
            try:
                data = (self.root / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Blob(data=data, tag=_tag(data))

    def write(self, key: str, data: bytes) -> None:
        with storage_errors(self.root):
            write_durably(self.root / key, data)

    def swap(self, key: str, data: bytes, tag: str | None) -> str | None:
        with storage_errors(self.root), _locked(self.root / key):
            current = self.read(key)
            if (current.tag if current else None) != tag:
                return None
            write_durably(self.root / key, data)
        return _tag(data)

    def delete(self, key: str) -> None:
        with storage_errors(self.root):
            (self.root / key).unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        with storage_errors(self.root):
            try:
                return sorted(entry.name for entry in os.scandir(self.root / prefix) if not entry.name.startswith("."))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def sizes(self, prefix: str) -> Mapping[str, int]:
        folder = self.root / prefix
        with storage_errors(self.root):
            paths = [path for path in folder.rglob("*") if path.is_file()]
            return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}

    def publish(self, folder: Path, prefix: str, files: Sequence[FileEntry], record: bytes) -> None:
        target = self.root / prefix
        with storage_errors(self.root):
            # the record joins its files before the rename: with them it appears, after every one of them is durable
            write_durably(folder / records.NAME, record)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                # an artifact whose record or files are broken: it was not trusted, and must not be mixed with this one
                target.rename(folder.parent / f"replaced-{uuid.uuid4().hex[:8]}")
            folder.rename(target)
            _sync_folder(target.parent)

    def fetch(self, prefix: str, files: Sequence[FileEntry]) -> Path:
        return self.root / prefix


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that a reader or a crash sees the old bytes or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with scratch.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock beside a key; the system lets go of it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def remove_tree(path: Path) -> None:
    """Remove a folder that is no longer needed; what cannot be removed is left for a later run."""
    shutil.rmtree(path, ignore_errors=True)
