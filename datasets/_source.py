"""Source: where a data set comes from and how its official raw files become Samples.

One file in this room is one source and ends in `SOURCE`. A reader is a generator: it takes a file or folder in its
authors' layout and a `Reading`, and yields Samples. A raw record that cannot be used comes out as a Sample too, with
`dropped` set to one of the source's named reasons, so that what went in and what came out can be reconciled:

    reading.records == raw records that became part of a sample + dropped samples

Mendings that lose nothing (edge whitespace, ids of mixed type) are counted by name in `reading.repairs`.
A record that is not what its format says stops the read with file, line and reason, or is set aside as
`malformed-record`; the read fails in the end when such records are more than the share that the caller tolerates.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from llavaflow.datasets._images import FAULTS
from llavaflow.datasets._raw import Bad
from llavaflow.datasets._sample import IMAGE_TOKEN, Sample, Turn
from llavaflow.infra.errors import InputError, unknown

T = TypeVar("T")

SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
ONE_CAPTION = "Provide a one-sentence caption for the provided image."

# reasons and mendings that all sources share; those of images and sampling come from the stage that mixes them
DROPS: Mapping[str, str] = {
    "malformed-record": "not what the format says: listed with file, line and reason",
    "repeated-id": "an id that an earlier record already has",
    **FAULTS,
    "not-sampled": "the mixture takes a part of this set, and not this record",
}
REPAIRS: Mapping[str, str] = {
    "edge-whitespace": "spaces or newlines around a text were removed",
    "image-token-in-text": "a literal <image> inside a question or answer was removed",
    "number-as-text": "a number where a text belongs was written out",
    "malformed-row-set-aside": "a row that records are joined with (an annotation, a size) is not what the format says",
}

_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)


class Reading:
    """One pass of a reader: its seed, what it tolerates, its source's options, and what it counted."""

    def __init__(self, *, seed: int = 0, tolerate: float = 0.0, options: Mapping[str, str] | None = None) -> None:
        self.seed = seed
        self.tolerate = tolerate
        self.options = options or {}
        self.records = 0
        self.joined = 0
        self.repairs: Counter[str] = Counter()
        self.malformed = 0
        self.quarantine: list[dict[str, Any]] = []

    def each(self, source: str, file: Path, rows: Iterable[Any], build: Callable[[Any], T]) -> Iterator[T | Sample]:
        """`build` of every raw record, counted; a malformed one becomes a dropped Sample or ends the read."""
        for number, row in enumerate(rows, 1):
            self.records += 1
            try:
                if type(row) is Bad:
                    yield self._rejected(source, file, f"line {row.line}", row.reason)
                    continue
                built = build(row)
            except _MALFORMED as error:
                yield self._rejected(source, file, _place(file, number), _say(error, row))
                continue
            yield built

    def join(self, file: Path, rows: Iterable[Any], build: Callable[[Any], T]) -> Iterator[T]:
        """`build` of every row that records are joined with; a malformed one is set aside or ends the read.

        Such rows (annotations, image sizes, OCR tokens) are no records: a record that misses its row is dropped.
        """
        for number, row in enumerate(rows, 1):
            self.joined += 1
            try:
                if type(row) is Bad:
                    self._set_aside(file, f"line {row.line}", row.reason)
                    continue
                built = build(row)
            except _MALFORMED as error:
                self._set_aside(file, _place(file, number), _say(error, row))
                continue
            yield built

    def hold_to_share(self, path: Path) -> None:
        """Raise InputError when more was malformed than is tolerated; known only at the end, since faults cluster."""
        read = self.records + self.joined
        if self.malformed > self.tolerate * read:
            bad = [f"{Path(bad['file']).name}, {bad['where']}: {bad['reason']}" for bad in self.quarantine[:3]]
            raise InputError(
                f"{self.malformed} of {read} records of {path} are malformed, more than the tolerated share of "
                f"{self.tolerate:g}. First: {'; '.join(bad)}."
            )

    def text(self, value: Any) -> str:
        """A text field, mended: edge whitespace and image tokens removed, numbers written out."""
        if type(value) is not str:
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"text expected, found {type(value).__name__}")
            self.repairs["number-as-text"] += 1
            value = str(value)
        clean: str = value.strip()
        if len(clean) != len(value):
            self.repairs["edge-whitespace"] += 1
        return self.without_image_tokens(clean).strip() if "<" in clean else clean

    def without_image_tokens(self, text: str) -> str:
        """A text as it is but for image tokens, which would stand for a picture."""
        if IMAGE_TOKEN not in text:
            return text
        self.repairs["image-token-in-text"] += 1
        return text.replace(IMAGE_TOKEN, "")

    def random(self, source: str, key: object) -> random.Random:
        """The dice of one record: the same whatever other records there are."""
        return random.Random(f"{self.seed}/{source}/{key}")

    def _rejected(self, source: str, file: Path, where: str, reason: str) -> Sample:
        self._quarantine(file, where, reason)
        return Sample(id=f"{file.name}, {where}", source=source, dropped="malformed-record")

    def _set_aside(self, file: Path, where: str, reason: str) -> None:
        self._quarantine(file, where, reason)
        self.repairs["malformed-row-set-aside"] += 1

    def _quarantine(self, file: Path, where: str, reason: str) -> None:
        if self.tolerate <= 0:
            raise InputError(
                f"{file}, {where}: {reason}. Correct the record, or set bad records aside with --tolerate SHARE."
            )
        self.malformed += 1
        self.quarantine.append({"file": str(file), "where": where, "reason": reason})


def _place(file: Path, number: int) -> str:
    return f"{'line' if file.name.removesuffix('.gz').endswith('.jsonl') else 'record'} {number}"


def _say(error: Exception, row: Any) -> str:
    if isinstance(error, KeyError) and isinstance(error.args[0], str):
        return f"field '{error.args[0]}' is missing"
    if isinstance(row, tuple):
        # (key, value) of a mapping, which some sets are
        if "tuple" in str(error):
            return f"a list of records is expected, not a mapping (here its {row[0]!r})"
        if not isinstance(row[-1], Mapping):
            return f"under {row[0]!r} a record of named fields is expected, not {_kind(row[-1])}"
    elif not isinstance(row, Mapping):
        return f"a record of named fields is expected, not {_kind(row)}"
    if isinstance(error, KeyError):
        return "a mapping of records by id is expected, not a list of them"
    if "invalid literal for int" in str(error):
        return f"a whole number is expected, not {str(error).rpartition(': ')[2]}"
    return str(error) or type(error).__name__


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


Reader = Callable[[Path, Reading], Iterator[Sample]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as published, and its reader.

    images    folder of its images under a common image root, as the released mixtures name them
    shelves   folders inside the image folder that its records leave out of the paths
    prompt    the line that tells the model which form of answer is wanted
    rule      how records are built from raw records, in words
    expected  published counts, by what is counted
    options   what a caller may choose (`Reading.options`), by name
    """

    name: str
    title: str
    origin: tuple[str, ...]
    licence: str
    layout: str
    rule: str
    read: Reader
    expected: Mapping[str, int] = field(default_factory=dict)
    images: str = ""
    shelves: tuple[str, ...] = ()
    prompt: str = ""
    drops: Mapping[str, str] = field(default_factory=dict)
    repairs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)

    def reasons(self) -> dict[str, str]:
        """Every reason for which this source drops a record."""
        return {**DROPS, **self.drops}

    def mendings(self) -> dict[str, str]:
        return {**REPAIRS, **self.repairs}


def source_names() -> list[str]:
    """The sources, from the files of this room."""
    folder = files("llavaflow.datasets")
    stems = [Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".py")]
    return sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_") and stem != "scenes")


def source(name: str) -> Source:
    """The source of a name. Raises InputError with the nearest names."""
    if name not in source_names():
        raise unknown("source", name, source_names(), "the files of datasets/")
    found = import_module(f"llavaflow.datasets.{name.replace('-', '_')}").SOURCE
    assert isinstance(found, Source)
    return replace(found, read=_held_to_share(found.read))


def _held_to_share(read: Reader) -> Reader:
    """The reader, which fails at its end when too much was malformed."""

    def held(path: Path, reading: Reading) -> Iterator[Sample]:
        yield from read(path, reading)
        reading.hold_to_share(path)

    return held


def rejected(source: str, parent: str, reason: str) -> Sample:
    """A raw record that is not used; `parent` is its `table/id` in the raw files."""
    return Sample(id=parent, source=source, parents=(f"{source}:{parent}",), dropped=reason)


def question(text: str, prompt: str = "") -> Turn:
    """The first question of a sample: image token, text, response-format line."""
    return Turn(role="human", text="\n".join(part for part in (IMAGE_TOKEN, text, prompt) if part))


def dialogue(pairs: Iterable[tuple[str, str]], prompt: str = "") -> tuple[Turn, ...]:
    """Questions and answers on one image; the response-format line stands behind the first question only."""
    turns: list[Turn] = []
    for asked, answer in pairs:
        turns.append(Turn(role="human", text=asked) if turns else question(asked, prompt))
        turns.append(Turn(role="gpt", text=answer))
    return tuple(turns)


def capitalise(text: str) -> str:
    """First letter upper case, the rest as it is: `can't tell` becomes `Can't tell`."""
    return text[:1].upper() + text[1:]


def coco_image(image_id: int | str, folder: str = "train2017") -> str:
    """The image path of a COCO id. All images of train2014 are in train2017 under their bare number."""
    return f"coco/{folder}/{int(image_id):012d}.jpg"
