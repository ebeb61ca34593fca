"""A bench on which single stages run for real: a store in a temporary folder, contexts, and ready-made inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from llavaflow.datasets._index import IndexWriter
from llavaflow.datasets._shards import ShardWriter
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import Budget, RunContext
from llavaflow.infra.fingerprint import digest_outside
from llavaflow.infra.identity import Identity, InputRef
from llavaflow.infra.machine import Machine
from llavaflow.infra.store import ArtifactStore, open_store
from llavaflow.stages._fetch import Fetched
from llavaflow.stages._fetch_ledger import ledger_row, ledger_writer
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Given(Stage):
    """An input that a test writes by hand."""

    kind: ClassVar[Kind] = "shards"
    name: str


@dataclass(kw_only=True)
class Bench:
    store: ArtifactStore
    built: dict[object, Artifact] = field(default_factory=dict)

    def given(self, name: str, write: Callable[[Path], None]) -> Given:
        """An artifact whose files `write` puts into a folder."""
        stage = Given(name=name)
        ctx = self.context(stage)
        write(ctx.out)
        self.built[stage] = ctx.finish({})
        return stage

    def pairs(self, name: str, pairs: Sequence[tuple[str, str, bytes, int, int]]) -> Given:
        """Image-text pairs as a download leaves them."""
        return self.given(name, lambda root: write_pairs(root, pairs))

    def context(
        self, stage: Stage, *, previous: Artifact | None = None, generation: int = 0, budget: Budget | None = None
    ) -> RunContext:
        inputs = stage.inputs()
        refs = {path: _reference(self.built[item]) for path, item in inputs.items()}
        outside = {path: digest_outside(place) for path, place in stage.outside().items()}
        identity = Identity(type=stage.type_name(), settings=stage.settings(), inputs=refs, outside=outside)
        fingerprint = identity.fingerprint(generation)
        scratch = self.store.scratch(fingerprint)
        return RunContext(
            store=self.store,
            machine=Machine(kind="cpu", cores=2),
            recipe="bench",
            run_id="run",
            stage=stage.type_name().lower(),
            kind=stage.kind,
            fingerprint=fingerprint,
            out=scratch.out,
            work=scratch.work,
            generation=generation,
            inputs={item: self.built[item] for item in inputs.values()},
            previous=previous,
            budget=budget or Budget(),
            identity=identity,
        )

    def run(
        self, stage: Stage, *, previous: Artifact | None = None, generation: int = 0, budget: Budget | None = None
    ) -> Artifact:
        ctx = self.context(stage, previous=previous, generation=generation, budget=budget)
        self.built[stage] = stage.run(ctx)
        return self.built[stage]

    def card(self, artifact: Artifact) -> str:
        """README.md of a dataset, whose croissant.json is of the same artifact."""
        root = self.path(artifact)
        assert json.loads((root / "croissant.json").read_text())["name"] == artifact.fingerprint
        return (root / "README.md").read_text("utf-8")

    def path(self, artifact: Artifact | Stage) -> Path:
        return self.store.local_path(artifact if isinstance(artifact, Artifact) else self.built[artifact])


def write_pairs(root: Path, pairs: Sequence[tuple[str, str, bytes, int, int]]) -> None:
    """A shards artifact as a download leaves it, from (id, caption, image bytes, width, height)."""
    with ShardWriter(root) as shards, ledger_writer(root) as ledger, IndexWriter(root) as index:
        for id, caption, data, width, height in sorted(pairs):
            url = f"http://images.scenes.test/{id}.jpg"
            placed = shards.add(f"{id}.jpg", data, {"id": id, "url": url}, width=width, height=height)
            item = Fetched(id=id, reason=None, width=width, height=height)
            ledger.add(ledger_row(url, caption, item, placed.image, placed.sha256))
            index.add(id, source="url-table", url=url, file=placed.file, row=placed.row, sha256=placed.sha256)


def _reference(artifact: Artifact) -> InputRef:
    return InputRef(kind=artifact.kind, stage=artifact.stage, fingerprint=artifact.fingerprint)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(store=open_store(tmp_path / "store"))
