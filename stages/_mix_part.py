"""One component of a mixture, read once and spooled: its records as finished JSON lines, in a file of their own.

Records wait on disk and not in memory, so that a mixture may be larger than the machine. A killed run reads the raw
files again: that takes minutes at full size, and no state has to be trusted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from llavaflow.datasets._images import ImageFolder, Probe, probe, shard_name
from llavaflow.datasets._index import NAME as INDEX
from llavaflow.datasets._index import read_index
from llavaflow.datasets._records import Images
from llavaflow.datasets._sample import Sample, to_llava
from llavaflow.datasets._shards import TABLE, ImageTable
from llavaflow.datasets._source import Reading, source
from llavaflow.datasets._table_images import TableImages
from llavaflow.infra.errors import StageFailed

BATCH = 256
RECORDS = "data.jsonl"
# a rough length for the card; the training stage counts with the real tokenizer
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, kw_only=True)
class Input:
    """Where a component's raw files and images lie on this machine, and how its parents are named.

    root    the artifact, or the outside folder
    data    file or folder of the raw records
    images  folder of the images; None when images are not looked at
    """

    fingerprint: str
    root: Path
    data: Path
    images: Path | None


@dataclass(kw_only=True)
class Pictures:
    """The images of one input, by the name that records use; looked at once, however many records show them.

    sources  where they are looked for, in this order
    ids      index ids of the input's images, by digest
    origin   the input's name of a stored image
    """

    sources: list[Images]
    ids: dict[str, str] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    seen: dict[str, tuple[Probe, str]] = field(default_factory=dict)

    def load(self, name: str) -> bytes | None:
        """The bytes of an image, or None when it is missing."""
        return next((data for source in self.sources if (data := source.load(name)) is not None), None)

    def store_as(self, name: str) -> str:
        """The name that an image will be stored by. Raises StageFailed when it is that of a different image."""
        stored = shard_name(name)
        first = self.origin.setdefault(stored, name)
        if first != name and self.seen[first][1] != self.seen[name][1]:
            told = f"{first} and {name} are different images that would both be stored as {stored}: rename one."
            raise StageFailed(told)
        return stored

    def stored(self, name: str) -> tuple[bytes, Probe, str]:
        """Bytes, size and digest of an image under the name that it is stored by."""
        look, digest = self.seen[self.origin[name]]
        data = self.load(self.origin[name])
        assert data is not None, "an image that was there a moment ago"
        return data, look, digest

    def look(self, names: list[str], threads: ThreadPoolExecutor) -> None:
        """Probe images that no earlier record has shown."""
        new = [name for name in dict.fromkeys(names) if name not in self.seen]
        self.seen.update(zip(new, threads.map(self._probe, new), strict=True))

    def _probe(self, name: str) -> tuple[Probe, str]:
        data = self.load(name)
        if data is None:
            return Probe(fault="missing-image"), ""
        return probe(data), hashlib.sha256(data).hexdigest()


@dataclass(kw_only=True)
class Spool:
    """A component on disk: `lines` holds its records, `starts` where each begins; the rest is one entry per record."""

    name: str
    lines: Path
    starts: list[int] = field(default_factory=lambda: [0])
    ids: list[str] = field(default_factory=list)
    parents: list[tuple[str, ...]] = field(default_factory=list)
    images: list[tuple[str, ...]] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    dropped: list[tuple[str, tuple[str, ...], str]] = field(default_factory=list)
    read: int = 0
    repairs: Counter[str] = field(default_factory=Counter)
    quarantine: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


def spool(name: str, source_name: str, given: Input, pictures: Pictures | None, work: Path, reading: Reading) -> Spool:
    """Read a component and write its records, sampled or not, as JSON lines."""
    made = Spool(name=name, lines=work / f"{name}.jsonl")
    place = 0
    with made.lines.open("wb") as stream:
        for sample in _with_images(_samples(source_name, given, reading), given, pictures):
            if sample.dropped:
                made.dropped.append((sample.id, sample.parents, sample.dropped))
                continue
            # ids are shared between the sets that stand on COCO: a mixture's id names the component too
            record = to_llava(sample)
            record["id"] = f"{name}/{sample.id}"
            line = orjson.dumps(record) + b"\n"
            stream.write(line)
            place += len(line)
            made.starts.append(place)
            made.ids.append(record["id"])
            made.parents.append(sample.parents)
            made.images.append(sample.images)
            made.turns.append(len(sample.turns))
            made.characters.append(sum([len(turn.text) for turn in sample.turns]))
    made.read, made.repairs, made.quarantine = reading.records, reading.repairs, reading.quarantine
    return made


def pictures_of(given: Input, tables: Sequence[Path]) -> Pictures | None:
    """The images of an input: files in a folder, those of its image table, or those inside its raw `tables`."""
    found: list[Images] = [ImageFolder(given.images)] if given.images else []
    if not found and (given.root / TABLE).exists():
        found.append(ImageTable(given.root))
    elif tables:
        found.append(TableImages(tables))
    return Pictures(sources=found, ids=_image_ids(given.root)) if found else None


def _image_ids(root: Path) -> dict[str, str]:
    """Ids of an input's image records, by the digest of the image."""
    if not (root / INDEX).exists():
        return {}
    rows = read_index(root, columns=["id", "sha256", "file", "dropped"]).to_pylist()
    return {row["sha256"]: row["id"] for row in reversed(rows) if _is_image(row["file"]) and row["dropped"] is None}


def _is_image(file: str) -> bool:
    return file.lower().endswith((".tar", ".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"))


def _samples(source_name: str, given: Input, reading: Reading) -> Iterator[Sample]:
    """The samples of a component, with parents named as rows of the input's index."""
    rows = _record_ids(given) if source_name == "llava-json" else None
    for number, sample in enumerate(source(source_name).read(given.data, reading)):
        # a record of an artifact is known there under the id of its index
        parents = (rows[number],) if rows else sample.parents
        yield _renamed(sample, tuple([f"{given.fingerprint}:{parent}" for parent in parents]))


def _renamed(sample: Sample, parents: tuple[str, ...], images: tuple[str, ...] | None = None) -> Sample:
    return Sample(
        id=sample.id,
        source=sample.source,
        images=sample.images if images is None else images,
        turns=sample.turns,
        parents=parents,
        dropped=sample.dropped,
        extra=sample.extra,
    )


def _record_ids(given: Input) -> list[str] | None:
    """Ids of the rows of an artifact's data.jsonl, in its order; None for a file from outside."""
    if given.data not in (given.root, given.root / RECORDS) or not (given.root / INDEX).exists():
        return None
    rows = read_index(given.root, columns=["id", "file", "row"]).to_pylist()
    records = [row for row in rows if row["file"] == RECORDS]
    return [row["id"] for row in sorted(records, key=lambda row: int(row["row"]))]


def _with_images(samples: Iterator[Sample], given: Input, pictures: Pictures | None) -> Iterator[Sample]:
    """Look at the images of batches of samples on all threads; a sample without its image is dropped by name."""
    if pictures is None:
        yield from samples
        return
    with ThreadPoolExecutor() as threads:
        while batch := list(islice(samples, BATCH)):
            pictures.look([name for sample in batch if not sample.dropped for name in sample.images], threads)
            for sample in batch:
                yield _checked(sample, given, pictures)


def _checked(sample: Sample, given: Input, pictures: Pictures) -> Sample:
    if sample.dropped or not sample.images:
        return sample
    looks = [pictures.seen[name] for name in sample.images]
    fault = next((look.fault for look, _ in looks if look.fault), None)
    if fault:
        return sample.drop(fault)
    ids = [pictures.ids[digest] for _, digest in looks if digest in pictures.ids]
    stored = tuple([pictures.store_as(name) for name in sample.images])
    parents = tuple(dict.fromkeys([*sample.parents, *[f"{given.fingerprint}:{name}" for name in ids]]))
    return _renamed(sample, parents, images=stored)


