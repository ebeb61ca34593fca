"""RunContext: everything a run may differ in without changing the result. Never part of a fingerprint.

A stage asks it for the place to write (`out`), for a place that survives a kill (`work`), for its inputs, for the
machine, and ends with `ctx.finish(facts)`, which hashes the files, publishes them and writes the record last.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.identity import Identity, InputRef

if TYPE_CHECKING:
    from llavaflow.infra.machine import Machine
    from llavaflow.infra.store import ArtifactStore

T = TypeVar("T")


class Bar(Protocol):
    """One progress bar."""

    def advance(self, steps: int = 1) -> None: ...

    def note(self, text: str) -> None:
        """Show a short text behind the bar (loss, success rate)."""


class Progress(Protocol):
    """Progress on long work: a live bar on a terminal, a line now and then in a log."""

    def bar(self, title: str, total: int | None = None) -> AbstractContextManager[Bar]: ...


class Silent:
    """The progress that shows nothing: for library use and tests."""

    def bar(self, title: str, total: int | None = None) -> AbstractContextManager[Bar]:
        return _SilentBar()


class _SilentBar:
    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, steps: int = 1) -> None:
        return None

    def note(self, text: str) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits of a run: money and tokens for paid services; None is no limit."""

    max_usd: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a stage may ask for while it runs.

    out       folder whose files become the artifact (empty or left from a killed try of the same fingerprint)
    work      folder for ledgers and checkpoints; survives a kill, removed once the record is written
    inputs    the built artifact of every stage held in a field of this stage
    previous  newest artifact of this stage with the same settings but older inputs or generation: a refresh reuses
              its per-record results instead of fetching, filtering or captioning again
    """

    store: ArtifactStore
    machine: Machine
    recipe: str
    run_id: str
    stage: str
    kind: Kind
    fingerprint: str
    out: Path
    work: Path
    generation: int = 0
    inputs: Mapping[object, Artifact] = field(default_factory=dict)
    previous: Artifact | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("llavaflow"))
    progress: Progress = field(default_factory=Silent)
    budget: Budget = field(default_factory=Budget)
    identity: Identity = field(default_factory=Identity)
    started: float = field(default_factory=time.monotonic)

    def artifact(self, stage: object) -> Artifact:
        """The built artifact of an input stage."""
        return self.inputs[stage]

    def path(self, stage: object) -> Path:
        """A local folder with the files of an input stage, fetched and verified when the store is remote."""
        return self.store.local_path(self.inputs[stage])

    def track(self, items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
        """Yield items while a progress bar counts them."""
        with self.progress.bar(title, total) as bar:
            for item in items:
                yield item
                bar.advance()

    def finish(self, facts: Mapping[str, Json]) -> Artifact:
        """Hash and publish the files under `out`, write the record last, and return the artifact."""
        return self.store.commit(self, facts)


class Step(Protocol):
    """What infra needs to know of a stage."""

    version: ClassVar[str]
    kind: ClassVar[Kind]

    def settings(self) -> dict[str, Json]: ...

    def inputs(self) -> Mapping[str, object]: ...

    def outside(self) -> Mapping[str, Path]: ...

    @classmethod
    def type_name(cls) -> str: ...


def folder_context(
    root: Path | str,
    stage: Step,
    inputs: Mapping[Any, Artifact] | None = None,
    *,
    machine: Machine | None = None,
    previous: Artifact | None = None,
    generation: int = 0,
    budget: Budget | None = None,
    recipe: str = "local",
) -> RunContext:
    """A context that runs one stage by itself on a store: `stage.run(folder_context(tmp_path, stage))`.

    For stage tests and the REPL. `inputs` holds the artifact of every stage that the stage's fields hold, made by
    such contexts on the same root. Asking again before the stage has finished gives the same folders, as after a kill.
    """
    from llavaflow.infra.fingerprint import digest_outside
    from llavaflow.infra.machine import Machine
    from llavaflow.infra.store import open_store

    store = open_store(root)
    built = dict(inputs or {})
    identity = Identity(
        type=stage.type_name(),
        version=stage.version,
        settings=stage.settings(),
        inputs={path: _input_ref(store, built[held]) for path, held in stage.inputs().items()},
        outside={path: digest_outside(place) for path, place in stage.outside().items()},
    )
    fingerprint = identity.fingerprint(generation)
    scratch = store.scratch(fingerprint)
    return RunContext(
        store=store,
        machine=machine or Machine(kind="cpu"),
        recipe=recipe,
        run_id=uuid.uuid4().hex[:12],
        stage=stage.type_name().lower(),
        kind=stage.kind,
        fingerprint=fingerprint,
        out=scratch.out,
        work=scratch.work,
        generation=generation,
        inputs=built,
        previous=previous,
        budget=budget or Budget(),
        identity=identity,
    )


def _input_ref(store: ArtifactStore, artifact: Artifact) -> InputRef:
    family = store.record(artifact).identity.family
    return InputRef(kind=artifact.kind, stage=artifact.stage, fingerprint=artifact.fingerprint, family=family)
