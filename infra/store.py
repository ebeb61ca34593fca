"""ArtifactStore: fingerprint to artifact, on a folder or on S3.

    <kind>/<fingerprint>/record.json + files       an artifact; the record appears last and lists every file
    recipes/<recipe>/<stage>/<fingerprint>.json    pointers: what a recipe built for a stage, and when
    generations/<base>/<n>                         how often a refresh has renewed a fingerprint
    leases/<fingerprint>.json                      who is making it now
    scratch/<fingerprint>/{out,work}               work in progress (in a local cache folder for S3)

Nothing is trusted but an artifact whose record reads and whose files all exist with the size it says. Nothing is
overwritten: the same fingerprint committed twice gives the artifact that was there first.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llavaflow.infra import record as records
from llavaflow.infra.artifact import KINDS, Artifact, Json
from llavaflow.infra.backend import Backend, storage_errors
from llavaflow.infra.errors import InputError, StoreError
from llavaflow.infra.fingerprint import canonical, sha256_file
from llavaflow.infra.lease import Lease
from llavaflow.infra.record import Record
from llavaflow.infra.store_local import FolderBackend, remove_tree

if TYPE_CHECKING:
    from llavaflow.infra.context import RunContext


NOT_THERE = "not in the store"
# small objects asked for together, since each costs a round trip on S3
READS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """One line of a recipe's history: this stage was built as this artifact at this time."""

    ref: str
    created: float
    generation: int = 0

    @property
    def fingerprint(self) -> str:
        return self.ref.partition(":")[2]


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """The two folders of a stage in the making; both survive a kill."""

    out: Path
    work: Path


class ArtifactStore:
    """What has been built, found by fingerprint. Safe to share between runs, threads and machines."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._leases: dict[str, Lease] = {}
        self._known: dict[str, Record] = {}
        self._local: dict[str, Path] = {}

    @property
    def url(self) -> str:
        return self.backend.url

    @property
    def memory(self) -> Path:
        """Where digests of outside files are remembered."""
        return self.backend.scratch / "outside.json"

    def check_writable(self) -> None:
        """Write and remove one small object: a store that cannot be used says so before any work is done."""
        key = f"leases/probe-{uuid.uuid4().hex[:8]}"
        self.backend.write(key, b"{}")
        self.backend.delete(key)
        with storage_errors(self.backend.scratch):
            self.backend.scratch.mkdir(parents=True, exist_ok=True)

    # finding

    def find(self, fingerprint: str, kind: str | None = None) -> Artifact | None:
        """The artifact with this fingerprint if it is whole; knowing its kind saves requests."""
        return self.examine(fingerprint, kind)[0]

    def examine(self, fingerprint: str, kind: str | None = None) -> tuple[Artifact | None, str]:
        """The artifact, or why there is none that can be trusted."""
        for name in (kind,) if kind else KINDS:
            prefix = f"{name}/{fingerprint}"
            blob = self.backend.read(f"{prefix}/{records.NAME}")
            if blob is None:
                continue
            try:
                record = records.decode(blob.data)
            except ValueError as error:
                return None, f"its record cannot be read ({error})"
            if fault := self._fault(record, prefix):
                return None, fault
            self._known[fingerprint] = record
            return record.artifact(self.backend.place(prefix)), ""
        return None, NOT_THERE

    def _fault(self, record: Record, prefix: str) -> str:
        present = self.backend.sizes(prefix)
        if not prefix.endswith(record.fingerprint):
            return f"its record belongs to {record.fingerprint}"
        for entry in record.files:
            if entry.path not in present:
                return f"half-written: {entry.path} is missing"
            if present[entry.path] != entry.size:
                return f"damaged: {entry.path} has {present[entry.path]} bytes, its record says {entry.size}"
        return ""

    def record(self, artifact: Artifact) -> Record:
        """The record of an artifact of this store."""
        if artifact.fingerprint not in self._known and self.find(artifact.fingerprint, artifact.kind) is None:
            raise StoreError(f"{artifact.ref} is no longer in the store at {self.url}.")
        return self._known[artifact.fingerprint]

    def read_record(self, kind: str, fingerprint: str) -> Record | None:
        """A record by itself, without a look at its files; None when there is none that reads."""
        if fingerprint not in self._known:
            blob = self.backend.read(f"{kind}/{fingerprint}/{records.NAME}")
            try:
                self._known[fingerprint] = records.decode(blob.data if blob else b"{}")
            except ValueError:
                return None
        return self._known[fingerprint]

    def records(self) -> list[Record]:
        """Every readable record, oldest first."""
        names = [(kind, name) for kind in KINDS for name in self.backend.names(kind)]
        with ThreadPoolExecutor(max_workers=READS_AT_ONCE) as pool:
            found = list(pool.map(lambda pair: self.read_record(*pair), names))
        return sorted((record for record in found if record), key=lambda record: (record.created, record.ref))

    def matching(self, kind: str, prefix: str) -> list[str]:
        """The fingerprints of one kind that start with a prefix."""
        return [name for name in self.backend.names(kind) if name.startswith(prefix)]

    # reading

    def local_path(self, artifact: Artifact) -> Path:
        """A local folder with the artifact's files; fetched and verified when the store is remote."""
        if artifact.fingerprint not in self._local:
            record = self.record(artifact)
            self._local[artifact.fingerprint] = self.backend.fetch(
                f"{artifact.kind}/{artifact.fingerprint}", record.files
            )
        return self._local[artifact.fingerprint]

    def local_file(self, artifact: Artifact, name: str) -> Path:
        """One file of an artifact, without the others having to travel. Raises StoreError when it has none so named."""
        entries = [entry for entry in self.record(artifact).files if entry.path == name]
        if not entries:
            raise StoreError(f"{artifact.ref} has no file '{name}'.")
        return self.backend.fetch(f"{artifact.kind}/{artifact.fingerprint}", entries) / name

    def verify(self, artifact: Artifact) -> list[str]:
        """Read every byte; the files whose SHA-256 is not what the record says."""
        root = self.local_path(artifact)
        return [entry.path for entry in self.record(artifact).files if sha256_file(root / entry.path) != entry.sha256]

    # recipes and generations

    def history(self, recipe: str, stage: str) -> list[Pointer]:
        """What a recipe has built for a stage, newest first."""
        folder = f"recipes/{recipe}/{stage}"
        with ThreadPoolExecutor(max_workers=READS_AT_ONCE) as pool:
            blobs = list(pool.map(lambda name: self.backend.read(f"{folder}/{name}"), self.backend.names(folder)))
        pointers = [Pointer(**json.loads(blob.data)) for blob in blobs if blob]
        return sorted(pointers, key=lambda pointer: (pointer.created, pointer.ref), reverse=True)

    def recipes(self) -> dict[str, list[str]]:
        """Every recipe that has built something here, and its stages."""
        return {name: self.backend.names(f"recipes/{name}") for name in self.backend.names("recipes")}

    def point(self, recipe: str, stage: str, artifact: Artifact) -> None:
        """Let a recipe name an artifact, also one that another recipe built. Doing it again changes nothing."""
        key = f"recipes/{recipe}/{stage}/{artifact.fingerprint}.json"
        if self.backend.read(key) is None:
            record = self.record(artifact)
            line = {"ref": artifact.ref, "created": record.created, "generation": record.generation}
            if record.generation:
                self.backend.write(f"generations/{record.identity.base}/{record.generation}", b"")
            self.backend.write(key, canonical(line))

    def generation(self, base: str) -> int:
        """The newest generation built of a base fingerprint; 0 when it was never refreshed."""
        return max((int(name) for name in self.backend.names(f"generations/{base}") if name.isdigit()), default=0)

    # writing

    def lease(self, fingerprint: str, *, wait_s: float = 0.0, on_wait: Callable[[str], None] | None = None) -> Lease:
        """The right to make an artifact, for a `with` block; `commit` confirms it before it publishes."""
        lease = self._leases[fingerprint] = Lease(self.backend, fingerprint, wait_s=wait_s, on_wait=on_wait)
        return lease

    def scratch(self, fingerprint: str) -> Scratch:
        """The folders in which a stage works, with whatever a killed try has left in them."""
        root = self.backend.scratch / fingerprint
        with storage_errors(root):
            for name in ("out", "work"):
                (root / name).mkdir(parents=True, exist_ok=True)
            # a try that was killed between writing the record and publishing
            (root / "out" / records.NAME).unlink(missing_ok=True)
        return Scratch(out=root / "out", work=root / "work")

    def commit(self, ctx: RunContext, facts: Mapping[str, Json]) -> Artifact:
        """Publish the files under `ctx.out`: hash, move, record last; then the pointer of the recipe."""
        with storage_errors(ctx.out):
            files = records.list_files(ctx.out)
        record = Record(
            kind=ctx.kind,
            stage=ctx.stage,
            recipe=ctx.recipe,
            fingerprint=ctx.fingerprint,
            identity=ctx.identity,
            generation=ctx.generation,
            facts=dict(facts),
            run_id=ctx.run_id,
            created=time.time(),
            seconds=round(time.monotonic() - ctx.started, 3),
            packages=records.installed_packages(),
            files=files,
        )
        data = record.encode()
        lease = self._leases.get(ctx.fingerprint)
        if lease and not lease.ended:
            lease.confirm()
        artifact = self.find(ctx.fingerprint, ctx.kind)
        if artifact is None:
            self.backend.publish(ctx.out, f"{ctx.kind}/{ctx.fingerprint}", files, data)
            artifact = self.find(ctx.fingerprint, ctx.kind)
        if artifact is None:
            raise StoreError(f"{ctx.kind}:{ctx.fingerprint} was published to {self.url} and cannot be read back.")
        self.point(ctx.recipe, ctx.stage, artifact)
        remove_tree(self.backend.scratch / ctx.fingerprint)
        return artifact


def open_store(url: str | Path) -> ArtifactStore:
    """The store at a folder path or `s3://bucket/prefix` (endpoint and credentials from the standard AWS variables).

    Opening touches nothing; the first use of a place that cannot be used raises StoreError.
    """
    text = str(url)
    scheme, found, _ = text.partition("://")
    if not found:
        return ArtifactStore(FolderBackend(Path(text)))
    if scheme == "file":
        return ArtifactStore(FolderBackend(Path(text.removeprefix("file://"))))
    if scheme == "s3":
        from llavaflow.infra.store_s3 import S3Backend

        return ArtifactStore(S3Backend(text))
    raise InputError(f"cannot open a store at '{text}': {scheme}:// is not known. Give a folder or s3://bucket/prefix.")
