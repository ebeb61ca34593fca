"""Stage: one step of a recipe as a plain value. Its fields are its whole identity.

A field that holds another Stage is an input. A field that holds a Path is a file or folder outside the store: a file
counts by its content, a folder as `folders_by_content` says. Everything else must reduce to JSON. Tuples, mappings and
frozen dataclasses are walked, so a filter inside a list may hold the stage whose model it needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step: `run(ctx)` makes exactly one artifact of `kind` from its fields and inputs.

    `version` is bumped by hand when the meaning of the stage changes: results made by the older code are then not
    found any more, and nothing else has to be cleared.
    """

    version: ClassVar[str] = "1"
    # a folder of a hundred gigabytes of images counts by names and sizes; two checkpoints of one shape differ in
    # neither, so a stage that takes checkpoints names their files one by one (their digests are remembered)
    folders_by_content: ClassVar[bool] = False
    kind: ClassVar[Kind]

    def run(self, ctx: RunContext) -> Artifact:
        """Make the artifact. Raises StageFailed when a gate of the stage is not met."""
        raise NotImplementedError(f"{type(self).__name__}.run")

    def fields(self) -> dict[str, object]:
        """The stage's fields by name, as they are."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def settings(self) -> dict[str, Json]:
        """The literal fields as JSON: what `pipeline show` prints and the fingerprint digests."""
        return {name: _plain(value) for name, value in self.fields().items() if not isinstance(value, Stage)}

    def inputs(self) -> dict[str, Stage]:
        """Every stage held in a field, by the path of the field (`clip`, `filters[3].clip`)."""
        return dict(_walk(self.fields(), Stage))

    def outside(self) -> dict[str, Path]:
        """Every outside file or folder held in a field, by the path of the field."""
        held = dict(_walk(self.fields(), Path))
        return _files_below(held) if self.folders_by_content else held

    @classmethod
    def type_name(cls) -> str:
        return cls.__name__


def _plain(value: object) -> Json:
    """The JSON form of a field value; stages and paths inside it become placeholders (they count elsewhere)."""
    if isinstance(value, Stage):
        return {"stage": value.type_name()}
    if isinstance(value, Path):
        return {"path": value.name}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        body = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **body}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"a stage field must be JSON, a Path, a dataclass or a Stage, not {type(value).__name__}")


def _files_below(places: Mapping[str, Path]) -> dict[str, Path]:
    """Every folder replaced by the files below it; what is no folder, or not there, stays as it is."""
    found: dict[str, Path] = {}
    for name, place in places.items():
        files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else []
        found |= {f"{name}/{path.relative_to(place)}": path for path in files} or {name: place}
    return found


def _walk(value: object, wanted: type[T], path: str = "") -> Iterator[tuple[str, T]]:
    if isinstance(value, wanted):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(item, wanted, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _walk(item, wanted, f"{path}[{index}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, (type, Stage)):
        for field in dataclasses.fields(value):
            yield from _walk(getattr(value, field.name), wanted, f"{path}.{field.name}")
