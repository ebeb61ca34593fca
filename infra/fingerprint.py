"""Fingerprints: one canonical JSON form, one digest, and digests of outside files that are not computed twice.

The digest of a value must not depend on dict order, platform or Python version, so values are reduced to JSON with
sorted keys first. Floats keep Python's shortest repr (1e-3 and 0.001 are one value).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError

LENGTH = 20


def canonical(value: Json) -> bytes:
    """The canonical JSON bytes of a value. Raises TypeError for anything that is not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Json) -> str:
    """The fingerprint of a JSON value: 20 hex digits of its SHA-256 (80 bits: no clash in any real store)."""
    return hashlib.sha256(canonical(value)).hexdigest()[:LENGTH]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_outside(path: Path, memory: Path | None = None) -> str:
    """The digest of a file or folder outside the store.

    A file counts by content; the result is remembered in `memory` (a JSON file) by path, size and mtime, so that a
    plan over a 200 GB file does not read it again. A folder counts by the names and sizes of its files: hashing
    100 GB of images to notice an edit would cost more than the edit is worth.
    Raises InputError when the path does not exist, or when a folder changes while it is being listed.
    """
    if path.is_dir():
        return digest(_listing(path))
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}. Give the path of an existing file or folder."
        ) from error
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    known: dict[str, str] = {}
    if memory is not None and memory.exists():
        try:
            known = json.loads(memory.read_text())
        except ValueError:
            known = {}
    if key not in known:
        known[key] = sha256_file(path)[:LENGTH]
        if memory is not None:
            memory.parent.mkdir(parents=True, exist_ok=True)
            scratch = memory.with_suffix(f".{os.getpid()}.tmp")
            scratch.write_text(json.dumps(known))
            scratch.replace(memory)
    return known[key]


def _listing(folder: Path) -> list[Json]:
    """[name, size] of every file under a folder, sorted."""
    try:
        files = (entry for entry in folder.rglob("*") if entry.is_file())
        return [list(row) for row in sorted((str(entry.relative_to(folder)), entry.stat().st_size) for entry in files)]
    except OSError as error:
        raise InputError(
            f"{folder} changed while it was being listed, or cannot be read ({error.strerror}: {error.filename}). "
            "Wait until whatever writes there has ended, then start again."
        ) from error
