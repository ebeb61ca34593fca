"""Own data: a user's LLaVA JSON and images become training data, after every record has been through the gate.

All bad records are found before anything is built; the error tells what is wrong by record and where the full list
is. Up to a stated share of bad records may be left out instead. The file is read twice, once to check and once to
write, so that its size does not matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import orjson

from llavaflow.datasets._images import shard_name
from llavaflow.datasets._index import IndexWriter
from llavaflow.datasets._records import Records, open_records
from llavaflow.datasets._shards import ShardWriter
from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError
from llavaflow.stages._check import Checked, Gate, Rules
from llavaflow.stages._check_record import Finding, parse
from llavaflow.stages._mix_card import write_cards
from llavaflow.stages._mix_part import CHARACTERS_PER_TOKEN
from llavaflow.stages._stage import Stage

TOLD = 10
LISTED = 1000
DATA = "data.jsonl"
REPORT = "bad-records.jsonl"


@dataclass
class Verdict:
    """What the gate found: the bad records by their number with the first fault, and every fault."""

    records: int = 0
    bad: dict[int, str] = field(default_factory=dict)
    errors: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class OwnData(Stage):
    """A LLaVA JSON file (list or lines) and the folder its image paths start from, or a set that carries its images.

    Such a set is a parquet of LLaVA-NeXT or a folder of them, webdataset shards, or the folder of an artifact.

    template  marks of this format must not occur in the data
    tolerate  share of bad records that is left out; 0 refuses the file at the first
    """

    kind: ClassVar[Kind] = "mixture"

    file: Path | None = None
    images: Path | None = None
    template: str = "v1"
    tolerate: float = 0.0

    def run(self, ctx: RunContext) -> Artifact:
        """Check everything, then write records, images and index."""
        file = self._file()
        records = open_records(file, self.images)
        gate, verdict = self._examine(ctx, records)
        self._refuse(ctx, file, verdict)
        with IndexWriter(ctx.out) as index, ShardWriter(ctx.out) as shards, (ctx.out / DATA).open("wb") as lines:
            writer = _Writer(ctx.fingerprint, gate, shards, index)
            rows = enumerate(records.rows())
            for number, raw in ctx.track(rows, "records", total=verdict.records):
                lines.write(writer.add(number, raw, verdict.bad.get(number)))
            facts = writer.facts()
        facts["dropped"] = dict(Counter(verdict.bad.values()))
        facts["components"] = [_component(facts, file, verdict.records)]
        write_cards(ctx.out, facts, title=f"Own data: {file.name}", seed=None, fingerprint=ctx.fingerprint)
        return ctx.finish(facts)

    def _file(self) -> Path:
        if self.file is None:
            raise InputError("no data: give a LLaVA JSON file with --set data.file=my.json (and data.images=FOLDER).")
        return self.file

    def _examine(self, ctx: RunContext, records: Records) -> tuple[Gate, Verdict]:
        """Every record through the gate; what is wrong with which."""
        gate = Gate(rules=Rules(template=self.template, images=records.images))
        verdict = Verdict()
        for row in ctx.track(gate.examine(records.rows()), "check"):
            verdict.records += 1
            errors = row.errors if records.images else [*row.errors, *_needing_images(row)]
            verdict.errors += errors
            if errors:
                verdict.bad[row.number] = errors[0].kind
        if not verdict.records:
            raise InputError(f"{records.path} holds no records.")
        return gate, verdict

    def _refuse(self, ctx: RunContext, file: Path, verdict: Verdict) -> None:
        """Tell every bad record; raise InputError when they are more than the tolerated share."""
        errors, bad, count = verdict.errors, verdict.bad, verdict.records
        for finding in errors[:LISTED]:
            ctx.log.warning("%s, %s", file.name, _say(finding))
        if len(bad) <= self.tolerate * count and len(bad) < count:
            return
        ctx.work.mkdir(parents=True, exist_ok=True)
        report = ctx.work / REPORT
        report.write_bytes(b"".join(orjson.dumps(finding._asdict()) + b"\n" for finding in errors))
        counts = Counter(finding.kind for finding in errors).most_common()
        kinds = ", ".join(f"{kind} {number}" for kind, number in counts)
        told = "\n".join(f"  {_say(finding)}" for finding in errors[:TOLD])
        more = f"\n  ... all {len(errors)} in {report}" if len(errors) > TOLD else ""
        raise InputError(
            f"{len(bad)} of {count} records of {file} cannot be trained on ({kinds}):\n{told}{more}\n"
            "Correct them (`pipeline data check --fix` writes a repaired copy), or leave them out with "
            "--set data.tolerate=SHARE."
        )


def _needing_images(row: Checked) -> list[Finding]:
    """Without an image folder, a record with an image has a missing one."""
    if row.record is None or not row.record.images:
        return []
    detail = f"{row.record.images[0]}: no image folder is given"
    return [Finding(row.number, row.record.id, "missing-image", detail)]


def _component(facts: Mapping[str, Json], file: Path, count: int) -> dict[str, Json]:
    """The file as the one component of a card."""
    copied = {name: facts[name] for name in ("samples", "with_image", "turns", "tokens", "dropped")}
    fixed: dict[str, Json] = {"sampling": "all", "expected": None, "repairs": {}, "licence": "that of the owner's file"}
    return {"name": file.stem, "source": "llava-json", "read": count, **fixed, **copied}


def _say(finding: Finding) -> str:
    detail = f", {finding.detail}" if finding.detail else ""
    return f"record {finding.record} (id {finding.id}): {finding.kind}{detail}"


@dataclass
class _Writer:
    """Writes good records with their images, and an index row for every record and image."""

    fingerprint: str
    gate: Gate
    shards: ShardWriter
    index: IndexWriter
    names: dict[str, str] = field(default_factory=dict)
    samples: int = 0
    with_image: int = 0
    turns: int = 0
    characters: int = 0

    def add(self, number: int, raw: Any, fault: str | None) -> bytes:
        """The line of a record, or nothing when it is left out."""
        # ids repeat in real files; the place is unique
        name = f"record/{number}"
        if fault:
            self.index.add(name, source="own-data", dropped=fault)
            return b""
        record = parse(raw, number)
        names = [self.names.get(image) or self._store(image) for image in record.images]
        parents = [f"{self.fingerprint}:image/{stored}" for stored in names]
        image = {"image": names[0] if len(names) == 1 else names} if names else {}
        talk = [{"from": role, "value": text.strip()} for role, text in record.turns]
        body = orjson.dumps({"id": record.id, **image, "conversations": talk})
        digest = hashlib.sha256(body).hexdigest()
        self.index.add(
            name, source="own-data", sha256=digest, file=DATA, row=self.samples, parents=parents
        )
        self.samples += 1
        self.with_image += bool(names)
        self.turns += len(talk)
        self.characters += sum(len(turn["value"]) for turn in talk)
        return body + b"\n"

    def _store(self, image: str) -> str:
        """Put an image into the shards, under a name that is still free there (`x.jpg` and `x.png` are not both)."""
        folder, look = self.gate.rules.images, self.gate.probes[image]
        data = folder.load(image) if folder else None
        assert data is not None, "the gate has seen this image"
        wanted = PurePosixPath(shard_name(image))
        tails = (f"-{number}" if number else "" for number in count())
        names = (f"{wanted.with_suffix('')}{tail}{wanted.suffix}" for tail in tails)
        stored = next(name for name in names if name not in self.shards)
        placed = self.shards.add(stored, data, {"image": image}, width=look.width, height=look.height)
        self.index.add(f"image/{stored}", source="own-data", sha256=placed.sha256, file=placed.file, row=placed.row)
        self.names[image] = stored
        return stored

    def facts(self) -> dict[str, Json]:
        return {
            "samples": self.samples,
            "with_image": self.with_image,
            "images": len(self.shards),
            "turns": self.turns,
            "tokens": self.characters // CHARACTERS_PER_TOKEN,
        }
