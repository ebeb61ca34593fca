"""`pipeline data read`: official raw files of one source to a LLaVA JSON file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import click

from llavaflow.infra.errors import InputError
from llavaflow.pipelines._cli._options import emit, json_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.datasets._images import ImageFolder
    from llavaflow.datasets._sample import Sample
    from llavaflow.datasets._source import Reading
    from llavaflow.datasets._table_images import TableImages
    from llavaflow.infra.artifact import Json

FILE = click.Path(path_type=Path)
MALFORMED_SHOWN = 10


@click.command()
@click.argument("source_name", metavar="SOURCE")
@click.option("--path", type=FILE, required=True, help="File or folder in the authors' layout, plain or gzipped.")
@click.option("--images", type=FILE, help="Folder of the images; without it, they are looked for beside the raw files.")
@click.option("-o", "--out", type=FILE, required=True, help="FILE.jsonl for one record per line, FILE.json for a list.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--drop-missing", is_flag=True, help="Leave out records whose image is not there.")
@click.option("--extract", type=FILE, metavar="DIR", help="Write the pictures that lie inside parquet files here.")
@click.option("--seed", default=0, show_default=True, help="For the draws that a source's rule makes.")
@click.option(
    "--tolerate",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SHARE",
    help="Share of malformed records (0 to 1) to set aside; 0 stops at the first.",
)
@click.option("--quarantine", type=FILE, metavar="OUT", help="Write every malformed record here: file, place, reason.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the source.")
@json_option
def read(
    source_name: str,
    path: Path,
    images: Path | None,
    out: Path,
    force: bool,
    drop_missing: bool,
    extract: Path | None,
    seed: int,
    tolerate: float,
    quarantine: Path | None,
    options: tuple[str, ...],
    as_json: bool,
) -> None:
    """Turn the raw files of SOURCE into LLaVA JSON by its record-building rule.

    Every raw record ends in a sample or in `dropped` with its reason; `pipeline show source:SOURCE` prints the
    layout, the rule and the meaning of each reason.
    """
    from llavaflow.datasets._images import ImageFolder
    from llavaflow.datasets._source import Reading, source
    from llavaflow.datasets._table_images import TableImages, tables_with_pictures

    found = source(source_name)
    reading = Reading(seed=seed, tolerate=tolerate, options=_named(options, found.options, source_name))
    prepare_outs([out, *filter(None, [quarantine])], force, path)
    if images is not None and not images.is_dir():
        raise InputError(f"{images} is not a folder. Give the folder that holds the images of {source_name}.")
    # a file of annotations often has a folder of its own beside those of the images
    roots = [images] if images else [path] if path.is_dir() else [path.parent, path.parent.parent]
    folder = ImageFolder(*roots, *(root / shelf for root in roots for shelf in found.shelves))
    tables = TableImages(tables_with_pictures(path)) if path.exists() else None
    tally = Tally(folder=folder, tables=tables, drop_missing=drop_missing, extract=extract)
    try:
        write_records(out, tally.kept(_refuse_none(found.read(path, reading), reading, path)))
    finally:
        # when too many are malformed, the list is what is needed most
        if quarantine is not None:
            write_records(quarantine, reading.quarantine)
    document = tally.document(source_name, reading)
    emit(document, as_json, lambda console: _render(console, document, out, found.mendings() | found.reasons()))


def _refuse_none(samples: Iterator[Sample], reading: Reading, path: Path) -> Iterator[Sample]:
    """The samples; InputError when there was not one raw record to make them from."""
    yield from samples
    if not reading.records:
        raise InputError(f"{path} holds no records. Is it the right file, and is it whole?")


def _named(options: tuple[str, ...], known: Mapping[str, str], source_name: str) -> dict[str, str]:
    pairs = dict(option.partition("=")[::2] for option in options)
    for name in pairs:
        if name not in known:
            told = "; ".join(f"{key}: {text}" for key, text in known.items()) or "it has none"
            raise InputError(f"source {source_name} has no option '{name}'. Options: {told}.")
    return pairs


def prepare_outs(outs: Sequence[Path], force: bool, *read: Path) -> None:
    """See that files can be written, in folders that are made if need be; nothing is overwritten unasked.

    What the command reads is never overwritten, and no two outputs are one file.
    """
    for place, out in enumerate(outs):
        if any(_is_same(out, other) for other in (*read, *outs[:place])):
            raise InputError(f"{out} is read or written by this very command already. Choose another name.")
        if out.is_dir():
            raise InputError(f"{out} is a folder. Give the name of a file.")
        if out.exists() and not force:
            raise InputError(f"{out} exists and is not overwritten. Choose another name, or add --force.")
    for out in outs:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"the folder {out.parent} cannot be made: {error.strerror}. Choose another place."
            raise InputError(told) from error
        try:
            with TemporaryFile(dir=out.parent):
                pass
        except OSError as error:
            told = f"no file can be written in {out.parent}: {error.strerror}. Choose another place."
            raise InputError(told) from error


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, also by way of a link."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def write_records(out: Path, records: Iterable[object]) -> None:
    """JSON lines, or a JSON list when the name ends in .json; the file appears when it is complete."""
    import orjson

    scratch = out.with_name(f".{out.name}.{os.getpid()}.part")
    as_list = out.suffix == ".json"
    try:
        with scratch.open("wb") as stream:
            for number, record in enumerate(records):
                stream.write(((b",\n" if number else b"[\n") if as_list else b"") + orjson.dumps(record))
                stream.write(b"" if as_list else b"\n")
            if as_list:
                stream.write(b"\n]\n" if stream.tell() else b"[]\n")
        scratch.replace(out)
    finally:
        scratch.unlink(missing_ok=True)


@dataclass
class Tally:
    """Counts samples on their way to the file, and writes the pictures that lie inside tables to `extract`."""

    folder: ImageFolder
    tables: TableImages | None
    drop_missing: bool
    extract: Path | None = None
    samples: int = 0
    turns: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    images: dict[str, bool] = field(default_factory=dict)
    refused: int = 0
    used: set[str] = field(default_factory=set)

    def kept(self, samples: Iterable[Sample]) -> Iterator[object]:
        """The records to write; the others are counted by reason."""
        from llavaflow.datasets._sample import to_llava

        for sample in samples:
            self._account(sample)
            reason = sample.dropped or self._missing(sample)
            if reason:
                self.dropped[reason] += 1
                continue
            self.samples += 1
            self.turns += len(sample.turns)
            for name in sample.images if self.extract else ():
                self._extract(name)
            yield to_llava(sample)

    def _account(self, sample: Sample) -> None:
        """Note which raw records a sample is made of: those of the table that its first parent is in."""
        if sample.dropped:
            self.refused += 1
        elif sample.parents:
            table = sample.parents[0].partition("/")[0] + "/"
            self.used.update(parent for parent in sample.parents if parent.startswith(table))

    def _missing(self, sample: Sample) -> str | None:
        for name in sample.images:
            if name not in self.images:
                inside = self.tables is not None and self.tables.has(name)
                self.images[name] = inside or self.folder.find(name) is not None
        there = all([self.images[name] for name in sample.images])
        return None if there or not self.drop_missing else "missing-image"

    def _extract(self, name: str) -> None:
        """Write a picture of the tables under its name; what is there is left as it is."""
        assert self.extract is not None
        # a path from the root of the machine that made the table starts at DIR here
        out = self.extract.joinpath(*(part for part in PurePosixPath(name).parts if part != "/"))
        if ".." in out.parts or out.exists():
            return
        data = self.tables.load(name) if self.tables else None
        if data is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(data)

    def document(self, source_name: str, reading: Reading) -> dict[str, Json]:
        present = sum(self.images.values())
        return {
            "source": source_name,
            "samples": self.samples,
            "turns": self.turns,
            "images_present": present,
            "images_missing": len(self.images) - present,
            "dropped": dict(self.dropped),
            "records": reading.records,
            "records_used": len(self.used),
            "records_unaccounted": reading.records - len(self.used) - self.refused,
            "repairs": {name: count for name, count in reading.repairs.items() if count},
            "malformed": reading.quarantine[:MALFORMED_SHOWN],
        }


def _render(console: Console, document: dict[str, Json], out: Path, meaning: dict[str, str]) -> None:
    samples, turns, records, used = (f"{document[name]:,}" for name in ("samples", "turns", "records", "records_used"))
    console.print(f"{samples} samples with {turns} turns from {used} of {records} records")
    if lost := document["records_unaccounted"]:
        console.print(f"[red]{lost:,} records are neither used nor dropped: please report this[/]")
    present, missing = document["images_present"], document["images_missing"]
    if present or missing:
        console.print(f"images: {present:,} found, {missing:,} missing")
    for title in ("dropped", "repairs"):
        for name, count in sorted(document[title].items()):
            console.print(f"{title}: {count:,} {name} ({meaning.get(name, 'the image of a record is not there')})")
    for bad in document["malformed"]:
        console.print(f"  {bad['file']}, {bad['where']}: {bad['reason']}", markup=False)
    console.print(f"written: {out}")
