"""Artifact: the handle of something that was built. The bytes stay in the store; this is what a stage passes on.

An artifact is named by its fingerprint, the digest of everything that decided its content. Its `facts` are the few
typed numbers a reader wants without opening it (samples, accuracy, tokens); they are stored in the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["shards", "mixture", "checkpoint", "scores", "report"]
KINDS: tuple[str, ...] = get_args(Kind)

# what json.dumps takes: facts and settings are JSON values and nothing else
Json = Any


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A built artifact: `kind:fingerprint`, where it lies, and its facts."""

    kind: Kind
    stage: str
    recipe: str
    fingerprint: str
    uri: str
    generation: int = 0
    facts: Mapping[str, Json] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        return f"{self.kind}:{self.fingerprint}"
