"""Backend: the few operations in which a folder and a bucket differ. The store is written once, above them.

Keys are relative, with forward slashes. `swap` is the only conditional write: on a folder it is a locked compare and
rename, on S3 a PUT with If-Match or If-None-Match; leases stand on it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llavaflow.infra.errors import StoreError
from llavaflow.infra.record import FileEntry


@dataclass(frozen=True, kw_only=True)
class Blob:
    """The bytes under a key and the tag that `swap` compares."""

    data: bytes
    tag: str


class Backend(Protocol):
    """Where a store keeps its bytes. Every method raises StoreError when the place cannot be used."""

    @property
    def url(self) -> str: ...

    @property
    def scratch(self) -> Path:
        """A local folder for work in progress and caches."""

    def read(self, key: str) -> Blob | None: ...

    def write(self, key: str, data: bytes) -> None:
        """Write durably and at once: a reader sees the old bytes or the new."""

    def swap(self, key: str, data: bytes, tag: str | None) -> str | None:
        """Write only if the key still has this tag (None: does not exist); the new tag, or None when it was lost."""

    def delete(self, key: str) -> None: ...

    def names(self, prefix: str) -> list[str]:
        """The names directly under a prefix, sorted."""

    def sizes(self, prefix: str) -> Mapping[str, int]:
        """Every file under a prefix with its size, by its key relative to the prefix."""

    def publish(self, folder: Path, prefix: str, files: Sequence[FileEntry], record: bytes) -> None:
        """Bring a local folder to its final place; the record appears last."""

    def fetch(self, prefix: str, files: Sequence[FileEntry]) -> Path:
        """A local folder with these files, verified when they had to travel."""

    def place(self, prefix: str) -> str:
        """The path or URL of a prefix."""


@contextmanager
def storage_errors(where: Path | str) -> Iterator[None]:
    """Turn an OSError of the file system into one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, where) from error


def storage_error(error: OSError, where: Path | str) -> StoreError:
    """The StoreError for a file system that is full, read-only, or not ours to write."""
    advice = {
        errno.ENOSPC: "the disk is full. Free some space or choose another place with --store, then run again",
        errno.EDQUOT: "the disk quota is used up. Free some space or choose another place with --store",
        errno.EROFS: "the file system is read-only. Choose another place with --store",
        errno.EACCES: "permission denied. Make the folder writable or choose another place with --store",
        errno.EPERM: "permission denied. Make the folder writable or choose another place with --store",
        errno.ENOTDIR: "a file stands where a folder is needed. Choose another place with --store",
        errno.EEXIST: "a file stands where a folder is needed. Choose another place with --store",
    }
    reason = advice.get(error.errno or 0, f"{error.strerror or error}. Check the place given by --store")
    return StoreError(f"cannot use the store at {error.filename or where}: {reason}.")
