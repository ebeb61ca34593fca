"""What can be wrong with one LLaVA JSON record, by name; and the record itself once its form is known to be right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llavaflow.datasets._images import FAULTS
from llavaflow.datasets._raw import Bad
from llavaflow.models.labels import REASONS

ERRORS: Mapping[str, str] = {
    "malformed-record": "not JSON, or a field of the wrong type",
    "unknown-speaker": "a turn from neither human nor gpt",
    **REASONS,
    **FAULTS,
    "in-evaluation-set": "the image, or the image with this question, is in a set given by --against",
}
WARNINGS: Mapping[str, str] = {
    "id-not-text": "an id is a number; ids are text",
    "repeated-id": "an id occurs before",
    "edge-whitespace": "a turn starts or ends with white space",
    "duplicate-record": "same images and same words as an earlier record",
    "near-duplicate": "same images and, but for case and punctuation, same words as an earlier record",
    "wrong-extension": "the file is not what its suffix says, or lies under another suffix",
    "cut-to-max-length": "does not fit: trailing turns are left off in training",
    "over-max-length": "estimated to be longer than the limit",
    "like-evaluation-image": "the image looks like one of a set given by --against, in other bytes",
    "question-in-evaluation-set": "a question of a set given by --against, on another image",
}
ROLES = {"human": "human", "gpt": "gpt", "user": "human", "assistant": "gpt"}


class Finding(NamedTuple):
    """One thing wrong with one record; `record` counts from 0 in file order."""

    record: int
    id: str
    kind: str
    detail: str

    @property
    def is_error(self) -> bool:
        return self.kind in ERRORS


class Record(NamedTuple):
    """A record of the right form; `together` is its texts, joined by null characters."""

    number: int
    id: str
    images: tuple[str, ...]
    roles: tuple[str, ...]
    texts: list[str]
    together: str

    @property
    def turns(self) -> list[tuple[str, str]]:
        return list(zip(self.roles, self.texts, strict=True))


class Fault(Exception):
    """The form of a record is wrong."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def parse(raw: Any, number: int) -> Record:
    """The record in its plain form. Raises Fault when it has none."""
    if isinstance(raw, Bad):
        raise Fault("malformed-record", f"line {raw.line}: {raw.reason}")
    if isinstance(raw, tuple):
        raise Fault("malformed-record", f"entry {raw[0]!r} of a mapping: the file must hold a list of records")
    if not isinstance(raw, dict):
        raise Fault("malformed-record", f"a mapping is expected, not {type(raw).__name__}")
    talk = raw.get("conversations")
    if not isinstance(talk, list):
        raise Fault("malformed-record", "field 'conversations' is missing or not a list")
    try:
        roles = [ROLES[turn["from"]] for turn in talk]
        texts = [turn["value"] for turn in talk]
        together = "\0".join(texts)
    except (KeyError, TypeError):
        # one by one, for the sake of the message
        for turn in talk:
            _refuse(turn)
        raise
    return Record(number, name_of(raw, number), _images(raw.get("image")), tuple(roles), texts, together)


def name_of(raw: Any, number: int) -> str:
    """The id of a record as text, or its place when it has none."""
    if isinstance(raw, dict) and raw.get("id") is not None:
        return str(raw["id"])
    return f"record {number}"


def _refuse(turn: Any) -> None:
    """Raise the Fault of a turn that is none."""
    try:
        role, text = turn["from"], turn["value"]
    except (KeyError, TypeError) as error:
        raise Fault("malformed-record", "a turn needs 'from' and 'value'") from error
    if not isinstance(role, str) or role not in ROLES:
        raise Fault("unknown-speaker", f"from {role!r}")
    if type(text) is not str:
        raise Fault("malformed-record", f"value of a turn is {type(text).__name__}, not text")


def _images(raw: Any) -> tuple[str, ...]:
    if not raw:
        return ()
    if type(raw) is str:
        return (raw,)
    names = (raw,) if isinstance(raw, str) else raw
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise Fault("malformed-record", "field 'image' is not a path or a list of paths")
    return tuple(names)
