"""Record: what `record.json` beside an artifact says. It is written last, so a record that reads is a promise.

It lists every file with size and SHA-256, the whole identity, the facts, and how the artifact was made. It names no
host and no absolute path: a store can be copied, and two runs with one seed differ only in times and run id.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llavaflow.infra.artifact import KINDS, Artifact, Json, Kind
from llavaflow.infra.errors import StoreError
from llavaflow.infra.fingerprint import canonical
from llavaflow.infra.identity import Identity, InputRef

NAME = "record.json"
FORMAT = 1
# whose versions can change what a stage writes
PACKAGES = (
    *("deepspeed", "img2dataset", "llavaflow", "numpy", "openai", "peft", "pillow", "pyarrow"),
    *("ray", "tokenizers", "torch", "transformers", "webdataset"),
)


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artifact; `path` is relative, with forward slashes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A built artifact as its record tells it."""

    kind: Kind
    stage: str
    recipe: str
    fingerprint: str
    identity: Identity
    generation: int = 0
    facts: Mapping[str, Json] = field(default_factory=dict)
    run_id: str = ""
    created: float = 0.0
    seconds: float = 0.0
    packages: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()

    @property
    def ref(self) -> str:
        return f"{self.kind}:{self.fingerprint}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def artifact(self, uri: str) -> Artifact:
        return Artifact(
            kind=self.kind,
            stage=self.stage,
            recipe=self.recipe,
            fingerprint=self.fingerprint,
            uri=uri,
            generation=self.generation,
            facts=self.facts,
        )

    def as_json(self) -> dict[str, Json]:
        body = dataclasses.asdict(self)
        identity = body.pop("identity")
        return {"format": FORMAT, **body, **identity, "base": self.identity.base, "family": self.identity.family}

    def encode(self) -> bytes:
        """The bytes of record.json. Raises TypeError or ValueError when the facts are not JSON."""
        canonical(dict(self.facts))
        return (json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def decode(data: bytes) -> Record:
    """The record in these bytes. Raises ValueError when they are not one."""
    try:
        body = json.loads(data)
        if body["format"] != FORMAT or body["kind"] not in KINDS:
            raise ValueError(f"format {body['format']}, kind {body['kind']}")
        identity = Identity(
            type=body["type"],
            version=body["version"],
            settings=body["settings"],
            inputs={path: InputRef(**ref) for path, ref in body["inputs"].items()},
            outside=body["outside"],
        )
        names = {item.name for item in dataclasses.fields(Record)} - {"identity", "files"}
        files = tuple(FileEntry(**entry) for entry in body["files"])
        return Record(identity=identity, files=files, **{name: body[name] for name in names})
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a record: {error!r}") from error


def walk_files(folder: Path) -> Iterator[Path]:
    """Every file under a folder, sorted. Raises StoreError at a link: it would not travel with the artifact."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise StoreError(f"the stage left a symbolic link at {path}; write the file itself, or a hard link.")
        if path.is_file():
            yield path


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """Every file under a folder, hashed in parallel and flushed to disk."""
    paths = [path for path in walk_files(folder) if path != folder / NAME]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return tuple(pool.map(lambda path: _entry(folder, path), paths))


def _entry(folder: Path, path: Path) -> FileEntry:
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        # a record must not outlive its bytes when the power fails
        os.fsync(stream.fileno())
        size = os.fstat(stream.fileno()).st_size
    return FileEntry(path=path.relative_to(folder).as_posix(), size=size, sha256=sha256)


def installed_packages() -> dict[str, str]:
    """Versions of the packages that can change what a stage writes, as installed here."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
