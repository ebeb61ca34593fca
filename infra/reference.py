"""References: the ways in which a user may name an artifact.

RECIPE/STAGE             the newest that the recipe has built for that stage
KIND:FINGERPRINT         any artifact; the first digits of the fingerprint will do
a path or s3:// URL      the folder of an artifact, in whichever store it lies
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llavaflow.infra import record as records
from llavaflow.infra.artifact import KINDS, Artifact
from llavaflow.infra.errors import InputError, unknown
from llavaflow.infra.record import Record
from llavaflow.infra.store import ArtifactStore, open_store

FORMS = f"RECIPE/STAGE, KIND:FINGERPRINT (kinds: {', '.join(KINDS)}), or the path or URL of an artifact"


@dataclass(frozen=True, kw_only=True)
class Found:
    """An artifact with the store it lies in, which need not be the one of the command."""

    artifact: Artifact
    store: ArtifactStore

    @property
    def record(self) -> Record:
        return self.store.record(self.artifact)

    @property
    def path(self) -> Path:
        """A local folder with its files."""
        return self.store.local_path(self.artifact)


def find_reference(text: str, store: ArtifactStore) -> Found:
    """The artifact that a reference names. Raises InputError that says what exists instead."""
    if "://" in text or Path(text, records.NAME).is_file():
        return _by_place(text)
    kind, found, prefix = text.partition(":")
    if found:
        return _by_fingerprint(kind, prefix, store)
    recipe, found, stage = text.partition("/")
    if found and stage and "/" not in stage and not text.startswith((".", "/")):
        return _by_recipe(recipe, stage, store)
    if Path(text).exists():
        raise InputError(f"'{text}' is not an artifact: there is no {records.NAME} in it. A reference is {FORMS}.")
    raise InputError(f"cannot read '{text}' as a reference to an artifact. Write {FORMS}.")


def _by_recipe(recipe: str, stage: str, store: ArtifactStore) -> Found:
    known = store.recipes()
    if recipe not in known:
        raise _not_built(unknown("recipe", recipe, known, f"what was built in {store.url}"), recipe, stage)
    if stage not in known[recipe]:
        where = f"what {recipe} has built in {store.url}"
        raise _not_built(unknown("stage", stage, known[recipe], where), recipe, stage)
    for pointer in store.history(recipe, stage):
        artifact = store.find(pointer.fingerprint, pointer.ref.partition(":")[0])
        if artifact is not None:
            return Found(artifact=artifact, store=store)
    raise InputError(f"what {recipe}/{stage} has built is no longer whole in {store.url}. Run {recipe} again.")


def _not_built(error: InputError, recipe: str, stage: str) -> InputError:
    return InputError(f"{error} If the name is right, `pipeline run {recipe} --stage {stage}` builds it.")


def _by_fingerprint(kind: str, prefix: str, store: ArtifactStore) -> Found:
    if kind not in KINDS:
        raise unknown("kind of artifact", kind, KINDS, "the part before ':'")
    if not prefix:
        raise InputError(f"'{kind}:' lacks a fingerprint. Its first digits will do, as in {kind}:3fa9.")
    names = store.matching(kind, prefix)
    if len(names) > 1:
        raise InputError(f"{kind}:{prefix} fits {len(names)} artifacts in {store.url}: {', '.join(names)}. Add digits.")
    if not names:
        have = ", ".join(record.ref[: len(kind) + 9] for record in store.records() if record.kind == kind)
        raise InputError(f"no {kind} starts with '{prefix}' in {store.url}. It has: {have or f'no {kind} yet'}.")
    artifact, fault = store.examine(names[0], kind)
    if artifact is None:
        raise InputError(f"{kind}:{names[0]} in {store.url} is not whole: {fault}. Run its recipe again.")
    return Found(artifact=artifact, store=store)


def _by_place(text: str) -> Found:
    """An artifact by the folder it lies in; the store is two levels above."""
    place = text.rstrip("/") if "://" in text else str(Path(text).expanduser().resolve())
    rest, _, fingerprint = place.rpartition("/")
    root, _, kind = rest.rpartition("/")
    if kind not in KINDS or not root:
        raise InputError(f"'{text}' is not an artifact of a store: its place ends in KIND/FINGERPRINT ({KINDS}).")
    store = open_store(root)
    artifact, fault = store.examine(fingerprint, kind)
    if artifact is None:
        raise InputError(f"there is no whole artifact at '{text}': {fault}.")
    return Found(artifact=artifact, store=store)
