"""Tracing on a small store built by hand: what each URL fed is known in advance."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from llavaflow.datasets._index import IndexWriter, read_row, record_bytes
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext, folder_context
from llavaflow.infra.store import open_store
from llavaflow.stages._stage import Stage
from llavaflow.stages._trace import Ledger, Row

URL = "http://images.scenes.test/{}.jpg"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Table(Stage):
    """Four addresses and one picture that no URL leads to."""

    kind: ClassVar[Kind] = "shards"

    def run(self, ctx: RunContext) -> Artifact:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{"URL": URL.format(number), "TEXT": f"text {number}"} for number in range(4)]
        pq.write_table(pa.Table.from_pylist(rows), ctx.out / "urls.parquet")
        (ctx.out / "picture.png").write_bytes(b"png")
        with IndexWriter(ctx.out) as index:
            for number, row in enumerate(rows):
                digest = sha(record_bytes(row))
                index.add(
                    f"row/{number}", source="urls", url=row["URL"], sha256=digest, file="urls.parquet", row=number
                )
            index.add("picture", source="coco", sha256=sha(b"png"), file="picture.png", row=0)
        return ctx.finish({"samples": 4})


@dataclass(frozen=True, kw_only=True)
class Lines(Stage):
    """One line per kept parent; `uses` says which parents each record has, `dropped` which record goes."""

    kind: ClassVar[Kind] = "mixture"
    source: Stage
    uses: tuple[tuple[str, tuple[str, ...]], ...]
    dropped: tuple[str, ...] = ()
    url: bool = False

    def run(self, ctx: RunContext) -> Artifact:
        parent = ctx.artifact(self.source).fingerprint
        with IndexWriter(ctx.out) as index, (ctx.out / "data.jsonl").open("wb") as stream:
            row = 0
            for name, parents in self.uses:
                up = [f"{parent}:{item}" for item in parents]
                url = URL.format(parents[0][-1]) if self.url else None
                if name in self.dropped:
                    index.add(name, source="x", parents=up, url=url, dropped="gone")
                    continue
                line = json.dumps({"id": name}).encode()
                stream.write(line + b"\n")
                index.add(name, source="x", parents=up, url=url, sha256=sha(line), file="data.jsonl", row=row)
                row += 1
        return ctx.finish({"samples": row})


@dataclass(frozen=True, kw_only=True)
class Fit(Stage):
    kind: ClassVar[Kind] = "checkpoint"
    data: Stage | None = None
    base: Stage | None = None

    def run(self, ctx: RunContext) -> Artifact:
        (ctx.out / "model").write_text(ctx.fingerprint)
        return ctx.finish({})


@dataclass(frozen=True, kw_only=True)
class Test(Fit):
    """Answers one question about the picture and says so in an index, as evaluate does."""

    __test__ = False
    kind: ClassVar[Kind] = "scores"

    def run(self, ctx: RunContext) -> Artifact:
        (ctx.out / "answers.jsonl").write_bytes(b"{}\n")
        with IndexWriter(ctx.out) as index:
            parents = [f"{ctx.artifact(self.data).fingerprint}:picture"]
            index.add("answer", source="x", parents=parents, sha256=sha(b"{}"), file="answers.jsonl", row=0)
        return ctx.finish({})


TABLE = Table()
DOWNLOAD = Lines(
    source=TABLE,
    url=True,
    dropped=("d2",),
    uses=(("d0", ("row/0",)), ("d1", ("row/1",)), ("d2", ("row/2",)), ("d3", ("row/3",))),
)
CAPTION = Lines(source=DOWNLOAD, uses=(("c0", ("d0",)), ("c1", ("d1",)), ("c3", ("d3",))), dropped=("c3",))
MIX = Lines(source=CAPTION, uses=(("m0", ("c0", "c1")), ("m1", ("c0",)), ("m2", ())))
FOUNDATION = Fit(data=TABLE)
FINETUNE = Fit(data=MIX, base=FOUNDATION)
EVALUATE = Test(base=FINETUNE, data=TABLE)
STAGES = {
    "table": TABLE,
    "download": DOWNLOAD,
    "caption": CAPTION,
    "mix": MIX,
    "foundation": FOUNDATION,
    "finetune": FINETUNE,
    "evaluate": EVALUATE,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    built: dict[Stage, Artifact] = {}
    for stage in STAGES.values():
        built[stage] = stage.run(folder_context(root, stage, built))
    return root


@pytest.fixture(scope="module")
def ledger(root: Path) -> Ledger:
    return Ledger(open_store(root))


def ids(rows: list[Row]) -> list[str]:
    return [row.id for row in rows]


def test_a_url_is_followed_to_exactly_the_rows_and_results_that_it_fed(ledger: Ledger) -> None:
    found = ledger.trace(ledger.select("url", URL.format(1)))
    assert ids(found.matches) == ["row/1", "d1"]
    assert ids(found.children) == ["c1", "m0"]
    assert [artifact.kind for artifact in found.fed] == ["checkpoint", "scores"]


def test_a_url_that_was_dropped_fed_nothing(ledger: Ledger) -> None:
    for number, matches, children in ((2, ["row/2", "d2"], []), (3, ["row/3", "d3"], ["c3"])):
        found = ledger.trace(ledger.select("url", URL.format(number)))
        assert ids(found.matches) == matches and ids(found.children) == children
        assert found.fed == []


def test_a_picture_without_a_url_is_followed_through_the_foundation(ledger: Ledger) -> None:
    found = ledger.trace(ledger.select("sha256", sha(b"png")))
    assert ids(found.matches) == ["picture"] and ids(found.children) == ["answer"]
    assert [artifact.kind for artifact in found.fed] == ["checkpoint", "checkpoint", "scores"]


def test_a_sample_lists_every_parent_with_a_row_that_exists(ledger: Ledger) -> None:
    found = ledger.trace(ledger.select("id", "m0"))
    assert ids(found.parents) == ["c0", "c1", "d0", "d1", "row/0", "row/1"]
    assert [row.depth for row in found.parents] == [1, 1, 2, 2, 3, 3]
    for row in (*found.matches, *found.parents):
        assert row.verified
        assert row.sha256 == sha(read_row(Path(row.artifact.uri), row.file, row.row))


def test_a_sample_can_be_asked_for_in_one_artifact(ledger: Ledger) -> None:
    row = ledger.select("id", "m0")[0]
    assert ids(ledger.select("id", "m0", row.artifact.fingerprint)) == ["m0"]
    assert ledger.select("id", "m0", "0" * 20) == []


def test_the_last_part_of_an_id_will_do(ledger: Ledger) -> None:
    assert ids(ledger.named("3")) == ["row/3"]
    assert ids(ledger.named("d3")) == ["d3"]
    assert ledger.named("3", ledger.named("d3")[0].artifact.fingerprint) == []


def test_scores_name_the_urls_that_fed_them(ledger: Ledger) -> None:
    scores = ledger.fed(ledger.select("id", "m0"))[-1]
    records, urls = ledger.urls(scores)
    # the three rows of the mixture and, since evaluate and the foundation hold it too, the five of the table
    assert records == 8 and urls == [URL.format(0), URL.format(1)]


def test_data_names_only_the_urls_of_what_survived(ledger: Ledger) -> None:
    assert ledger.urls(ledger.select("id", "c0")[0].artifact) == (2, [URL.format(0), URL.format(1)])
    assert ledger.urls(ledger.select("id", "d0")[0].artifact)[0] == 3


def test_damaged_bytes_are_reported(tmp_path: Path) -> None:
    table = TABLE.run(folder_context(tmp_path, TABLE))
    (Path(table.uri) / "picture.png").write_bytes(b"gnp")
    ledger = Ledger(open_store(tmp_path))
    assert [row.verified for row in ledger.trace(ledger.select("id", "picture")).matches] == [False]
    assert [row.verified for row in ledger.trace(ledger.select("id", "row/0")).matches] == [True]


def test_on_s3_only_indexes_and_the_files_of_the_rows_travel(s3_url: str, tmp_path: Path) -> None:
    table = TABLE.run(folder_context(s3_url, TABLE))
    cached = next((tmp_path / "cache").glob("*/shards"))
    cached.rename(cached.with_name("forgotten"))
    ledger = Ledger(open_store(s3_url))
    found = ledger.trace(ledger.select("url", URL.format(1)))
    assert [row.verified for row in found.matches] == [True]
    names = {path.name for path in (cached / table.fingerprint).iterdir()}
    assert names == {"index.parquet", "urls.parquet"}
