"""Identity: what decides the content of an artifact, and the words for what differs between two of them.

    base         digest of (type, version, settings, fingerprints of the inputs, digests of outside files)
    fingerprint  base, or digest of (base, generation) once a refresh asked for a new generation
    family       as base, but blind to generations and outside content: two members of one family were made by the
                 same rules from older and newer data, so per-record results may be carried over (`ctx.previous`)

A checkpoint counts in the family by its fingerprint: captions written by one model are never passed off as
those of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llavaflow.infra.artifact import Json, Kind
from llavaflow.infra.fingerprint import digest


@dataclass(frozen=True, kw_only=True)
class InputRef:
    """An input as its consumer's identity sees it."""

    kind: Kind
    stage: str
    fingerprint: str
    family: str = ""

    @property
    def ref(self) -> str:
        return f"{self.kind}:{self.fingerprint}"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Everything that a fingerprint digests; `inputs` and `outside` go by the path of the field that holds them."""

    type: str = ""
    version: str = ""
    settings: Mapping[str, Json] = field(default_factory=dict)
    inputs: Mapping[str, InputRef] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        inputs = {path: ref.fingerprint for path, ref in self.inputs.items()}
        return digest([self.type, self.version, _nameless(self.settings), inputs, dict(self.outside)])

    @property
    def family(self) -> str:
        inputs = {path: r.fingerprint if r.kind == "checkpoint" else r.family for path, r in self.inputs.items()}
        return digest([self.type, self.version, _nameless(self.settings), inputs, sorted(self.outside)])

    def fingerprint(self, generation: int = 0) -> str:
        return digest([self.base, generation]) if generation else self.base


def _nameless(value: Json) -> Json:
    """Settings without the names of outside files: those count by content."""
    if isinstance(value, Mapping):
        if set(value) == {"path"}:
            return {"path": ""}
        return {key: _nameless(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nameless(item) for item in value]
    return value


def flatten(value: Json, path: str = "") -> dict[str, Json]:
    """Nested settings as one level: `filters[3].threshold` -> 0.28. Empty containers stay, so they can differ."""
    if isinstance(value, Mapping) and value:
        parts = [flatten(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and value:
        parts = [flatten(item, f"{path}[{index}]") for index, item in enumerate(value)]
    else:
        return {path: value}
    return {key: item for part in parts for key, item in part.items()}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One flat entry that two values do not share; an entry that one side lacks is shown as `absent`."""

    path: str
    before: Json
    after: Json

    def __str__(self) -> str:
        return f"{self.path} {_short(self.before)} -> {_short(self.after)}"


ABSENT = "absent"


def differences(before: Json, after: Json) -> list[Difference]:
    """The flat entries in which two settings differ, in order of path."""
    old, new = flatten(before), flatten(after)
    paths = sorted(path for path in old.keys() | new.keys() if old.get(path, ABSENT) != new.get(path, ABSENT))
    return [Difference(path=p, before=old.get(p, ABSENT), after=new.get(p, ABSENT)) for p in paths]


def _short(value: Json, limit: int = 40) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def explain(old: Identity, new: Identity) -> list[str]:
    """Why `new` is not `old`, one phrase per cause; empty when only the generation differs."""
    if old.type != new.type:
        return [f"stage type {old.type} -> {new.type}"]
    causes = [f"version {old.version} -> {new.version}"] if old.version != new.version else []
    causes += [str(item) for item in differences(_nameless(old.settings), _nameless(new.settings))]
    for path in sorted(old.outside.keys() | new.outside.keys()):
        if old.outside.get(path) != new.outside.get(path):
            causes.append(f"outside file {path} changed")
    for path in sorted(old.inputs.keys() | new.inputs.keys()):
        before, after = old.inputs.get(path), new.inputs.get(path)
        if before is None or after is None:
            causes.append(f"input {path} {'added' if before is None else 'removed'}")
        elif before.fingerprint != after.fingerprint:
            causes.append(f"input {path} changed")
    return causes
