"""Trace: the way of single records through a store, back to where they came from and forward to what they fed.

The ledger is the `index.parquet` of every data artifact: a row names its parents as `<fingerprint>:<id>`, which makes
all indexes of a store one graph of records. A checkpoint, scores or a report do not name what they learned from row
by row; such a result was fed by a record when data among its inputs holds a surviving row of it, or a result among
its inputs was fed itself.

A URL table's row is an address and feeds nothing by itself: only what was downloaded from it does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llavaflow.datasets import _index
from llavaflow.infra.artifact import Artifact, Json
from llavaflow.infra.errors import StoreError
from llavaflow.infra.record import Record
from llavaflow.infra.store import ArtifactStore

COLUMNS = "artifact, id, parents, source, url, sha256, dropped, file, row"
WAYS = {
    "up": "SELECT e.parent_artifact, e.parent, r.depth + 1 FROM reach r JOIN edges e "
    "ON e.artifact = r.artifact AND e.id = r.id",
    "down": "SELECT e.artifact, e.id, r.depth + 1 FROM reach r JOIN edges e "
    "ON e.parent_artifact = r.artifact AND e.parent = r.id",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record of one artifact.

    verified  whether its bytes were read and have its sha256; None when nobody looked or it has no bytes
    depth     steps from the record that was asked for
    """

    artifact: Artifact
    id: str
    parents: tuple[str, ...]
    source: str
    url: str | None
    sha256: str | None
    dropped: str | None
    file: str
    row: int
    depth: int = 0
    verified: bool | None = None

    @property
    def name(self) -> str:
        return f"{self.artifact.fingerprint}:{self.id}"

    @property
    def is_address(self) -> bool:
        """Whether this is a row of a URL table rather than what was found there."""
        return self.url is not None and self.file.endswith(".parquet")

    def as_json(self) -> dict[str, Json]:
        names = ("id", "source", "url", "sha256", "dropped", "file", "row", "depth", "verified")
        place = {"artifact": self.artifact.ref, "recipe": self.artifact.recipe, "stage": self.artifact.stage}
        return place | {name: getattr(self, name) for name in names} | {"uri": f"{self.artifact.uri}/{self.file}"}


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The records asked for, all their parents and children, and the results that they fed."""

    matches: list[Row]
    parents: list[Row]
    children: list[Row]
    fed: list[Artifact]


class Ledger:
    """All record indexes of a store as one table."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.records = {record.fingerprint: record for record in store.records()}

    @cached_property
    def indexed(self) -> dict[str, Artifact]:
        """The artifacts that have an index, by fingerprint."""
        with_index = (record for record in self.records.values() if _has_index(record))
        found = (self.store.find(record.fingerprint, record.kind) for record in with_index)
        return {artifact.fingerprint: artifact for artifact in found if artifact}

    @cached_property
    def _database(self) -> Any:
        import duckdb

        database = duckdb.connect()
        database.execute(
            "CREATE TABLE rows (artifact VARCHAR, id VARCHAR, parents VARCHAR[], source VARCHAR, url VARCHAR, "
            "sha256 VARCHAR, dropped VARCHAR, file VARCHAR, row BIGINT)"
        )
        for fingerprint, artifact in self.indexed.items():
            path = str(self.store.local_file(artifact, _index.NAME))
            columns = COLUMNS.replace("artifact", "?")
            database.execute(f"INSERT INTO rows SELECT {columns} FROM read_parquet(?)", [fingerprint, path])
        database.execute(
            "CREATE TABLE edges AS SELECT artifact, id, split_part(parent, ':', 1) AS parent_artifact, "
            "substr(parent, strpos(parent, ':') + 1) AS parent FROM (SELECT artifact, id, unnest(parents) AS parent "
            "FROM rows)"
        )
        return database

    def _rows(self, sql: str, values: Sequence[Any]) -> list[Row]:
        found = self._database.execute(sql, list(values)).fetchall()
        return [
            Row(
                artifact=self.indexed[line[0]],
                parents=tuple(line[2] or ()),
                **dict(zip(_TAIL, line[3:], strict=True)),
                id=line[1],
            )
            for line in found
        ]

    def select(self, column: str, value: str, artifact: str | None = None) -> list[Row]:
        """The rows with this value in a column, oldest artifact first."""
        assert column in {"id", "url", "sha256"}
        where, values = f"{column} = ?", [value]
        if artifact:
            where, values = f"{where} AND artifact = ?", [value, artifact]
        return self._in_order(self._rows(f"SELECT {COLUMNS}, 0 FROM rows WHERE {where} ORDER BY id", values))

    def named(self, name: str, artifact: str | None = None) -> list[Row]:
        """The rows with this id or, when there is none, those whose id ends in it (`gqa/1234` for `1234`)."""
        if rows := self.select("id", name, artifact):
            return rows
        where, values = "(ends_with(id, ?) OR ends_with(id, ?))", [f"/{name}", f":{name}"]
        if artifact:
            where, values = f"{where} AND artifact = ?", [*values, artifact]
        return self._in_order(self._rows(f"SELECT {COLUMNS}, 0 FROM rows WHERE {where} ORDER BY id", values))

    def urls(self, artifact: Artifact) -> tuple[int, list[str]]:
        """How many surviving records an artifact was made of, and every URL that one of them came from.

        Counted in the artifact itself or, when it is a result, in the nearest data it was made from.
        """
        start = "SELECT artifact, id FROM rows WHERE dropped IS NULL AND list_contains(?, artifact)"
        held = [self._holders(artifact)]
        count = self._database.execute(f"SELECT count(*) FROM ({start})", held).fetchall()[0][0]
        sql = (
            f"WITH RECURSIVE reach(artifact, id) AS ({start} UNION SELECT e.parent_artifact, e.parent FROM reach r "
            "JOIN edges e ON e.artifact = r.artifact AND e.id = r.id) SELECT DISTINCT url FROM reach "
            "JOIN rows USING (artifact, id) WHERE url IS NOT NULL AND NOT ends_with(file, '.parquet') ORDER BY url"
        )
        return count, [line[0] for line in self._database.execute(sql, held).fetchall()]

    def dangling(self, artifact: Artifact) -> list[str]:
        """The parents that rows of an artifact name and no index of the store has."""
        sql = (
            "SELECT DISTINCT parent_artifact || ':' || parent AS name FROM edges e WHERE artifact = ? AND NOT EXISTS "
            "(FROM rows r WHERE r.artifact = e.parent_artifact AND r.id = e.parent) ORDER BY name"
        )
        return [line[0] for line in self._database.execute(sql, [artifact.fingerprint]).fetchall()]

    def _holders(self, artifact: Artifact) -> list[str]:
        """The artifact if it is data, else the nearest data among its inputs."""
        wanted, waiting = set[str](), [artifact.fingerprint]
        while waiting:
            record = self.records.get(waiting.pop())
            if record and _is_data(record):
                wanted.add(record.fingerprint)
            elif record:
                waiting += [held.fingerprint for held in record.identity.inputs.values()]
        return sorted(wanted & self.indexed.keys())

    def reach(self, start: Sequence[Row], way: str) -> list[Row]:
        """Every record above (`up`) or below (`down`) the given ones, nearest first."""
        import pyarrow as pa

        columns = {"artifact": [row.artifact.fingerprint for row in start], "id": [row.id for row in start]}
        self._database.register("start", pa.table(columns))
        sql = (
            "WITH RECURSIVE reach(artifact, id, depth) AS (SELECT artifact, id, 0 FROM start UNION "
            f"{WAYS[way]}), nearest AS (SELECT artifact, id, min(depth) AS depth FROM reach GROUP BY ALL) "
            f"SELECT {', '.join(f'rows.{name}' for name in COLUMNS.split(', '))}, depth FROM nearest "
            "JOIN rows USING (artifact, id) WHERE depth > 0 ORDER BY depth, rows.id"
        )
        return self._in_order(self._rows(sql, []))

    def fed(self, rows: Sequence[Row]) -> list[Artifact]:
        """The results that saw one of these rows, oldest first."""
        seen = {row.artifact.fingerprint for row in rows if row.dropped is None and not row.is_address}
        found: list[Artifact] = []
        for record in self.records.values():
            inputs = {held.fingerprint for held in record.identity.inputs.values()}
            if _is_data(record) or not seen & (inputs | {record.fingerprint}):
                continue
            seen.add(record.fingerprint)
            artifact = self.store.find(record.fingerprint, record.kind)
            found += [artifact] if artifact else []
        return found

    def trace(self, matches: Sequence[Row], *, verify: bool = True) -> Trace:
        """The whole way of these records, with their bytes read and compared when asked to."""
        look = self.verified if verify else lambda row: row
        children = self.reach(matches, "down")
        return Trace(
            matches=[look(row) for row in matches],
            parents=[look(row) for row in self.reach(matches, "up")],
            children=[look(row) for row in children],
            fed=self.fed([*matches, *children]),
        )

    def verified(self, row: Row) -> Row:
        """The row with its bytes read and compared with its sha256."""
        if not row.file or row.sha256 is None:
            return row
        name = row.file.partition("#")[0]
        try:
            path = self.store.local_file(row.artifact, name)
            data = _index.read_row(path.parents[name.count("/")], row.file, row.row)
        except StoreError:
            return replace(row, verified=False)
        return replace(row, verified=hashlib.sha256(data).hexdigest() == row.sha256)

    def _in_order(self, rows: list[Row]) -> list[Row]:
        age = {fingerprint: place for place, fingerprint in enumerate(self.records)}
        return sorted(rows, key=lambda row: (row.depth, age[row.artifact.fingerprint]))


_TAIL = ("source", "url", "sha256", "dropped", "file", "row", "depth")


def _is_data(record: Record) -> bool:
    """Whether its index alone says what it was made of; a result also learned from what it does not name."""
    return record.kind in ("shards", "mixture") and _has_index(record)


def _has_index(record: Record) -> bool:
    return any(entry.path == _index.NAME for entry in record.files)
