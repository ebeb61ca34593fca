"""What a recipe's stages would be called if they were built now, which of them are, and why the others are not.

`resolve` walks the stages once: the fingerprint of a stage needs only its fields and the fingerprints of its inputs,
so that everything is known before anything runs, and nothing heavier than the stages themselves is imported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.errors import InputError
from llavaflow.infra.fingerprint import digest_outside
from llavaflow.infra.identity import Identity, InputRef, explain
from llavaflow.infra.record import Record
from llavaflow.infra.store import NOT_THERE, ArtifactStore
from llavaflow.stages._stage import Stage

State = Literal["built", "missing", "stale"]
# the digest of what is not there; no file has it
ABSENT = "absent"
# a mixture has dozens of outside files; the gate `files` lists every one
ABSENT_SHOWN = 2


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """One stage of a recipe against a store.

    inputs    the names of its input stages, by the path of the field that holds them
    why       what keeps it from being built; empty when it is
    previous  newest artifact whose per-record results may be carried over (same family, other content)
    absent    outside files or folders that are not there; the fingerprint is provisional until they are
    """

    name: str
    stage: Stage
    identity: Identity
    generation: int
    fingerprint: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    state: State = "missing"
    why: str = ""
    artifact: Artifact | None = None
    previous: Artifact | None = None
    absent: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        return self.stage.kind


def resolve(
    stages: Mapping[str, Stage], store: ArtifactStore, *, recipe: str, refresh: Collection[str] = ()
) -> dict[str, Resolved]:
    """Every named stage with its fingerprint and state. A stage in `refresh` is asked for in a new generation.

    An outside file that does not exist leaves its stage missing and says so: a plan is made before the data is there.
    Raises InputError when a stage holds an input that the recipe does not name.
    """
    names = {id(stage): name for name, stage in stages.items()}
    done: dict[str, Resolved] = {}

    def visit(name: str) -> Resolved:
        if name not in done:
            stage = stages[name]
            held = {path: _name_of(value, stages, names, f"{name}.{path}") for path, value in stage.inputs().items()}
            inputs = {path: visit(source) for path, source in held.items()}
            done[name] = _resolve_one(name, stage, inputs, store, recipe, name in refresh)
        return done[name]

    return {name: visit(name) for name in stages}


def _name_of(value: Stage, stages: Mapping[str, Stage], names: dict[int, str], where: str) -> str:
    if id(value) not in names:
        equal = [name for name, stage in stages.items() if stage == value]
        if not equal:
            raise InputError(
                f"{where} holds a {value.type_name()} that is not a stage of the recipe (its stages: "
                f"{', '.join(stages)}). Name it in the recipe's stages."
            )
        names[id(value)] = equal[0]
    return names[id(value)]


def _resolve_one(
    name: str, stage: Stage, inputs: Mapping[str, Resolved], store: ArtifactStore, recipe: str, refresh: bool
) -> Resolved:
    absent = tuple(f"{name}.{path}: {place}" for path, place in stage.outside().items() if not _there(place))
    identity = identify(stage, {path: _as_input(item) for path, item in inputs.items()}, store, name)
    generation = store.generation(identity.base)
    if refresh and store.find(identity.fingerprint(generation), stage.kind):
        generation += 1
    fingerprint = identity.fingerprint(generation)
    artifact, fault = store.examine(fingerprint, stage.kind)
    known = Resolved(
        name=name,
        stage=stage,
        identity=identity,
        generation=generation,
        fingerprint=fingerprint,
        inputs={path: item.name for path, item in inputs.items()},
        absent=absent,
    )
    if artifact is not None:
        return replace(known, state="built", artifact=artifact)
    older = _older(store, recipe, known)
    why = "; ".join(_causes(known, inputs, fault, older))
    return replace(known, state="stale" if older else "missing", why=why, previous=_previous(store, known, older))


def identify(stage: Stage, inputs: Mapping[str, InputRef], store: ArtifactStore, name: str) -> Identity:
    """The identity of a stage whose inputs are known."""
    outside = {}
    for path, place in stage.outside().items():
        try:
            outside[path] = digest_outside(place.expanduser(), store.memory) if _there(place) else ABSENT
        except InputError as error:
            raise InputError(f"{name}.{path}: {error}") from error
    return Identity(
        type=stage.type_name(), version=stage.version, settings=stage.settings(), inputs=inputs, outside=outside
    )


def _there(place: Path) -> bool:
    return place.expanduser().exists()


def _as_input(item: Resolved) -> InputRef:
    return InputRef(kind=item.kind, stage=item.name, fingerprint=item.fingerprint, family=item.identity.family)


def _older(store: ArtifactStore, recipe: str, known: Resolved) -> list[Record]:
    """What this recipe has built before for this stage, newest first, without the artifact asked for."""
    pointers = (pointer for pointer in store.history(recipe, known.name) if pointer.fingerprint != known.fingerprint)
    found = (store.read_record(known.kind, pointer.fingerprint) for pointer in pointers)
    return [record for record in found if record is not None]


def _previous(store: ArtifactStore, known: Resolved, older: list[Record]) -> Artifact | None:
    family = known.identity.family
    found = (store.find(record.fingerprint, record.kind) for record in older if record.identity.family == family)
    return next((artifact for artifact in found if artifact), None)


def _causes(known: Resolved, inputs: Mapping[str, Resolved], fault: str, older: list[Record]) -> list[str]:
    """Why a stage is not built, one phrase per cause."""
    causes = [fault] if fault != NOT_THERE else []
    causes += [f"{place} is not there" for place in known.absent[:ABSENT_SHOWN]]
    if (more := len(known.absent) - ABSENT_SHOWN) > 0:
        causes.append(f"{more} more outside {'files are' if more > 1 else 'file is'} not there")
    if older:
        causes += explain(older[0].identity, known.identity)
        if older[0].identity.base == known.identity.base:
            causes.append(f"generation {older[0].generation} -> {known.generation}")
    elif not causes:
        causes.append("never built")
    waiting = dict.fromkeys(f"{item.name} ({item.state})" for item in inputs.values() if item.state != "built")
    return [*causes, f"waits for {', '.join(waiting)}"] if waiting else causes
