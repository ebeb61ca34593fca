"""Mix: components in their proportions become one training set, as LLaVA JSON lines, a LLaVA JSON list and shards.

Each component is read by its source's rules, looked over (images exist and decode), sampled, and put behind the ones
before it; then the whole is shuffled by the seed. The same inputs and seed give the same bytes. Every raw record that
was read is a parent of a record here or a row of the index with the reason why it is not.

    data.jsonl, llava_mix.json   the records        images.parquet, shards/   their images
    index.parquet                lineage            README.md, croissant.json the card, for people and machines
    malformed.jsonl              what was set aside as malformed (`tolerate`), by file and place; only if any was
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import orjson

from llavaflow.datasets._index import IndexWriter
from llavaflow.datasets._mixture import MIXTURES, Mixture, chosen
from llavaflow.datasets._shards import ShardWriter
from llavaflow.datasets._source import Reading, source
from llavaflow.datasets._table_images import tables_with_pictures
from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.stages._collection import no_collection
from llavaflow.stages._mix_card import write_cards
from llavaflow.stages._mix_part import Input, Pictures, Spool, pictures_of, spool
from llavaflow.stages._mix_write import Picked, write_images, write_records
from llavaflow.stages._stage import Stage

MALFORMED = "malformed.jsonl"


@dataclass(frozen=True, kw_only=True)
class Component:
    """One part of a mixture.

    data      the stage whose artifact holds the raw files, or an outside file or folder
    folder    where in that artifact they are
    images    image folder: inside the artifact, or outside; None takes the artifact's own image table if it has one;
              pictures inside raw tables (parquet) are found with either, and otherwise images are left alone
    options   options of the source, as name=value
    sampling  all, first:N, end:N, random:N, N a number or a percentage
    expected  the count that the card holds the result against
    """

    name: str
    source: str
    data: Stage | Path
    folder: str = ""
    images: Path | str | None = None
    options: tuple[str, ...] = ()
    sampling: str = "all"
    expected: int | None = None


@dataclass(frozen=True, kw_only=True)
class Mix(Stage):
    """The mixture stage.

    strict     fail when a component's count is not the expected one
    tolerate   share of malformed raw records that is set aside; 0 stops at the first
    """

    kind: ClassVar[Kind] = "mixture"
    # 2: one split of referring expressions, all sentences of a row, test diagrams in zipped lists
    version: ClassVar[str] = "2"

    components: tuple[Component, ...]
    seed: int = 0
    mixture: str = "mix665k"
    strict: bool = False
    tolerate: float = 0.0

    def run(self, ctx: RunContext) -> Artifact:
        """Read every component, sample, shuffle, write."""
        self._check()
        # sets that share images share what was seen of them
        seen: dict[tuple[Path, ...], Pictures | None] = {}
        picked = [self._pick(ctx, component, seen) for component in ctx.track(self.components, "components")]
        if self.strict:
            _refuse_wrong_counts(self.components, picked)
        order = self._order(picked)
        if not order:
            raise StageFailed("no component gave a single record: see the drop reasons of each in the log.")
        with IndexWriter(ctx.out) as index:
            with ShardWriter(ctx.out) as shards:
                write_images(picked, shards, index)
            with no_collection():
                write_records(picked, order, ctx.out, index)
        _list_malformed(ctx.out / MALFORMED, picked)
        facts = self._facts(picked, len(shards))
        published = self._published()
        write_cards(
            ctx.out,
            facts,
            title=published.title,
            seed=self.seed,
            fingerprint=ctx.fingerprint,
            published=published,
        )
        for part in picked:
            part.spool.lines.unlink()
        return ctx.finish(facts)

    def _check(self) -> None:
        names = [component.name for component in self.components]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated or not names:
            raise InputError(f"components need names of their own; repeated: {', '.join(repeated) or 'none given'}.")
        self._published()
        for component in self.components:
            source(component.source)
            chosen(component.sampling, 0, seed=0, name=component.name)
            _check_options(component)

    def _published(self) -> Mixture:
        if self.mixture not in MIXTURES:
            raise InputError(f"unknown mixture '{self.mixture}'. Known: {', '.join(MIXTURES)}.")
        return MIXTURES[self.mixture]

    def _pick(
        self, ctx: RunContext, component: Component, seen: dict[tuple[Path, ...], Pictures | None]
    ) -> Picked:
        """A component's records, sampled."""
        given = _input(ctx, component, self.components.index(component))
        # pictures inside raw tables belong to this component alone
        own = tables_with_pictures(given.data)
        place = (given.root, *([given.images] if given.images else []), *own)
        if place not in seen:
            seen[place] = pictures_of(given, own)
        pictures = seen[place]
        options = dict(option.partition("=")[::2] for option in component.options)
        reading = Reading(seed=self.seed, tolerate=self.tolerate, options=options)
        ctx.work.mkdir(parents=True, exist_ok=True)
        with no_collection():
            made: Spool = spool(component.name, component.source, given, pictures, ctx.work, reading)
        rows = chosen(component.sampling, len(made), seed=self.seed, name=component.name)
        dropped = Counter(reason for _, _, reason in made.dropped)
        ctx.log.info("%s: %d of %d records, dropped %s", component.name, len(rows), made.read, dict(dropped) or "none")
        return Picked(spool=made, rows=rows, pictures=pictures)

    def _order(self, picked: list[Picked]) -> list[tuple[int, int]]:
        """The order of the mixture: components behind each other, then one shuffle of everything."""
        order = [(number, row) for number, part in enumerate(picked) for row in part.rows]
        random.Random(f"{self.seed}/order").shuffle(order)
        return order

    def _facts(self, picked: list[Picked], images: int) -> dict[str, Json]:
        parts = [_part_facts(*pair) for pair in zip(self.components, picked, strict=True)]
        dropped: Counter[str] = Counter()
        for part in parts:
            dropped.update(part["dropped"])
        totals = {name: sum(part[name] for part in parts) for name in ("samples", "with_image", "turns", "tokens")}
        return {**totals, "images": images, "dropped": dict(dropped), "components": parts}


def _list_malformed(out: Path, picked: list[Picked]) -> None:
    """What was set aside: component, file, place and reason of each; no file when there is nothing."""
    rows = [{"component": part.spool.name, **bad} for part in picked for bad in part.spool.quarantine]
    if rows:
        out.write_bytes(b"".join(orjson.dumps({**row, "file": Path(row["file"]).name}) + b"\n" for row in rows))


def _input(ctx: RunContext, component: Component, number: int) -> Input:
    """Where a component's files are. Raises InputError when the folder is not in the artifact."""
    if isinstance(component.data, Path):
        known: Mapping[str, str] = getattr(ctx.identity, "outside", {})
        fingerprint = known.get(f"components[{number}].data", "outside")
        root = data = component.data / component.folder if component.folder else component.data
    else:
        fingerprint = ctx.artifact(component.data).fingerprint
        root = ctx.path(component.data)
        data = root / component.folder if component.folder else root
    if not data.exists():
        raise InputError(f"component {component.name}: {data} does not exist. Check its `folder`.")
    images = component.images if isinstance(component.images, Path | None) else root / component.images
    if images is not None and not images.is_dir():
        raise InputError(f"component {component.name}: image folder {images} does not exist. Check its `images`.")
    return Input(fingerprint=fingerprint, root=root, data=data, images=images)


def _check_options(component: Component) -> None:
    known = source(component.source).options
    for option in component.options:
        if option.partition("=")[0] not in known:
            there = ", ".join(known) or "none"
            raise InputError(f"{component.name}: no option '{option}'; {component.source} has {there}.")


def _part_facts(component: Component, picked: Picked) -> dict[str, Any]:
    made, rows = picked.spool, picked.rows
    dropped = Counter(reason for _, _, reason in made.dropped)
    if len(made) > len(rows):
        dropped["not-sampled"] = len(made) - len(rows)
    return {
        "name": component.name,
        "source": component.source,
        "sampling": component.sampling,
        "expected": component.expected,
        "read": made.read,
        "samples": len(rows),
        "with_image": sum(bool(made.images[row]) for row in rows),
        "turns": sum(made.turns[row] for row in rows),
        "tokens": picked.tokens,
        "dropped": dict(dropped),
        "repairs": {name: count for name, count in made.repairs.items() if count},
        "licence": source(component.source).licence,
    }


def _refuse_wrong_counts(components: tuple[Component, ...], picked: list[Picked]) -> None:
    wrong = [
        f"{component.name} has {len(part.rows):,} instead of {component.expected:,}"
        for component, part in zip(components, picked, strict=True)
        if component.expected is not None and len(part.rows) != component.expected
    ]
    if wrong:
        raise StageFailed(f"counts differ from the published ones: {'; '.join(wrong)}. With strict=false they pass.")


def published_components(
    mixture: Mixture,
    *,
    raw: Stage | Path,
    instruct: Stage | Path,
    images: Path | None = None,
    folders: Mapping[str, str] | None = None,
) -> tuple[Component, ...]:
    """The components of a published mixture over raw sets and an instruct set.

    A stage keeps the raw sets and their images under `raw/<source>`. An outside folder has one folder per source, and
    `images` is the image root of the released mixtures (coco/train2017, gqa/images, ...); without it no image is
    looked at. `folders` renames the folder of a part. Parts that were never published are left out; add their
    substitutes as Components of their own.
    """
    found = []
    for part in mixture.parts:
        if part.unpublished:
            continue
        common: dict[str, Any] = {
            "name": part.name, "source": part.source, "sampling": part.sampling, "expected": part.expected,
        }  # fmt: skip
        if part.name == "llava-instruct":
            # the released instruct files name COCO images without their folder
            options = () if isinstance(instruct, Stage) else ("prefix=coco/train2017",)
            found.append(Component(data=instruct, images=images, options=options, **common))
            continue
        inside = isinstance(raw, Stage)
        folder = (folders or {}).get(part.name, f"raw/{part.source}" if inside else part.source)
        place = f"raw/{IMAGE_FOLDERS.get(part.source, part.source)}" if inside else images
        found.append(Component(data=raw, folder=folder, images=place if part.with_image else None, **common))
    return tuple(found)


# sets that show the images of another one
IMAGE_FOLDERS = {name: "coco" for name in ("vqav2", "okvqa", "aokvqa", "refcoco")}
