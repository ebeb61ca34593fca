"""The files of a mixture: images in shards, records in their final order, and an index row for every one of them."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from llavaflow.datasets._index import IndexWriter
from llavaflow.datasets._shards import ShardWriter
from llavaflow.infra.errors import StageFailed
from llavaflow.stages._mix_part import CHARACTERS_PER_TOKEN, Pictures, Spool


@dataclass(frozen=True, kw_only=True)
class Picked:
    """A component's spool and the rows of it that go into the mixture."""

    spool: Spool
    rows: Sequence[int]
    pictures: Pictures | None

    @property
    def tokens(self) -> int:
        """Estimated text tokens of the picked records."""
        return sum(self.spool.characters[row] for row in self.rows) // CHARACTERS_PER_TOKEN


def write_images(picked: Sequence[Picked], shards: ShardWriter, index: IndexWriter) -> None:
    """Store every image that a picked record shows, once, in the order of the components."""
    stored: dict[str, str] = {}
    for part in picked:
        if part.pictures is None:
            continue
        fingerprints = _fingerprint(part.spool)
        for name in dict.fromkeys(name for row in part.rows for name in part.spool.images[row]):
            data, look, digest = part.pictures.stored(name)
            if name in stored:
                if stored[name] != digest:
                    raise StageFailed(f"two components have different images under the name {name}: rename one.")
                continue
            if name in shards:
                raise StageFailed(f"image {name} differs from another one in nothing but its suffix: rename one.")
            stored[name] = digest
            meta = {"image": name, "source": part.spool.name}
            placed = shards.add(name, data, meta, width=look.width, height=look.height)
            parents = [f"{fingerprints}:{part.pictures.ids[digest]}"] if digest in part.pictures.ids else []
            index.add(
                f"image/{name}",
                source=part.spool.name,
                parents=parents,
                sha256=digest,
                file=placed.file,
                row=placed.row,
            )


def _fingerprint(made: Spool) -> str:
    """The fingerprint of the input that a component was read from."""
    parents = next((parents for parents in made.parents if parents), ("",))
    return parents[0].partition(":")[0]


def write_records(picked: Sequence[Picked], order: Sequence[tuple[int, int]], out: Path, index: IndexWriter) -> None:
    """Copy the spooled lines into their final order, as lines and as a list; then index what was left out."""
    spools = [part.spool for part in picked]
    views = [_view(made.lines) for made in spools]
    row = count()
    with (out / "data.jsonl").open("wb", 1 << 20) as lines, (out / "llava_mix.json").open("wb", 1 << 20) as document:
        before = b"[\n"
        for number, place in order:
            made = spools[number]
            line = views[number][made.starts[place] : made.starts[place + 1]]
            lines.write(line)
            body = line[:-1]
            document.write(before + body)
            before = b",\n"
            index.add(
                made.ids[place],
                source=made.name,
                parents=made.parents[place],
                sha256=hashlib.sha256(body).hexdigest(),
                file="data.jsonl",
                row=next(row),
            )
        document.write(b"\n]\n")
    for part in picked:
        _index_left_out(part, index)


def _index_left_out(part: Picked, index: IndexWriter) -> None:
    made = part.spool
    for name, parents, reason in made.dropped:
        index.add(f"{made.name}/dropped/{name}", source=made.name, parents=parents, dropped=reason)
    kept = set(part.rows)
    for place, name in enumerate(made.ids):
        if place not in kept:
            index.add(name, source=made.name, parents=made.parents[place], dropped="not-sampled")


def _view(path: Path) -> mmap.mmap | bytes:
    """The bytes of a spool without reading them into memory."""
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
