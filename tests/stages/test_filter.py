"""Filter: a chain of filters on Ray Data; every pair is kept, dropped with its reason, or failed, and none twice."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llavaflow.datasets._index import read_index, read_row, sha256_bytes
from llavaflow.datasets._shards import ImageTable
from llavaflow.infra import ray
from llavaflow.infra.errors import InputError, StageFailed, StoreError
from llavaflow.infra.fingerprint import digest
from llavaflow.stages import _chunks
from llavaflow.stages._decide import Findings, decide
from llavaflow.stages._measure import Finding
from llavaflow.stages._pairs import Pairs, read_pairs
from llavaflow.stages.filter import Filter
from llavaflow.stages.filters._record_filter import Measured, RecordFilter
from llavaflow.stages.filters.captions import Captions
from llavaflow.stages.filters.decode import Decode
from llavaflow.stages.filters.duplicates import Duplicates
from llavaflow.stages.filters.size import Size


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    yield
    ray.shutdown()


def picture(seed: int, side: int = 64) -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def pairs(*names: str) -> list[tuple[str, str, bytes, int, int]]:
    every = {
        "a": ("a red circle here", picture(1), 64, 64),
        "b": ("a blue circle here", picture(1), 64, 64),
        "c": ("a green circle here", picture(1, 96), 96, 96),
        "d": ("a cut circle here", picture(2)[:400], 64, 64),
        "e": ("tiny", picture(3, 16), 16, 16),
        "f": ("a fine square here", picture(4), 64, 64),
        "g": ("two", picture(5), 64, 64),
        "h": ("a late square here", picture(6), 64, 64),
    }
    return [(name, *every[name]) for name in names]


CHAIN = (Decode(), Size(min_side_px=32), Captions(), Duplicates())


def test_a_chain_keeps_drops_and_remembers(bench: Any) -> None:
    data = bench.pairs("download", pairs(*"abcdefg"))
    first = bench.run(Filter(data=data, filters=CHAIN))
    assert first.facts["dropped"] == {
        "exact-duplicate": 1,
        "near-duplicate": 1,
        "short-caption": 1,
        "too-small": 1,
        "truncated-image": 1,
    }
    assert first.facts["samples"] == 2 and first.facts["failed"] == 0
    assert "2 of 7 pairs passed, in this order: decode, size, captions, duplicates." in bench.card(first)
    root = bench.path(first)
    assert [pair.id for pair in read_pairs(root)] == ["c", "f"], "of three copies the largest stays"
    assert sorted(ImageTable(root)) == ["c.jpg", "f.jpg"]
    up = bench.built[data].fingerprint
    for row in read_index(root).to_pylist():
        assert row["parents"] == [f"{up}:{row['id']}"]
        assert sha256_bytes(read_row(root, row["file"], row["row"])) == row["sha256"]

    newer = bench.pairs("download-2", pairs(*"abcdefgh"))
    second = bench.run(Filter(data=newer, filters=CHAIN), previous=first)
    assert second.facts["reused"] == 7 and second.facts["samples"] == 3
    fresh = bench.run(Filter(data=newer, filters=CHAIN), generation=1)
    assert fresh.facts["reused"] == 0
    for name in ("shards/00000.tar", "ledger.parquet", "images.parquet"):
        assert (bench.path(second) / name).read_bytes() == (bench.path(fresh) / name).read_bytes()


def test_it_goes_on_from_what_was_measured(bench: Any) -> None:
    data = bench.pairs("download", pairs("a", "f", "h"))
    stage = Filter(data=data, filters=CHAIN, batch_size=1)
    ctx = bench.context(stage)
    finding = {"id": "a", "sha256": "x", "signals": {"decode": {"fault": "was-here"}}, "failed": None}
    line = json.dumps({"chunk": digest(["a"]), "rows": [finding]})
    torn = json.dumps({"chunk": digest(["f"]), "rows": [finding]})[:-5]
    (ctx.work / "filter.jsonl").write_text(line + "\n" + torn)
    artifact = stage.run(ctx)
    assert artifact.facts["dropped"] == {"was-here": 1} and artifact.facts["samples"] == 2


def test_waves_give_what_one_run_gives(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Filter(data=bench.pairs("download", pairs("a", "f", "h")), filters=CHAIN, batch_size=1)
    whole = bench.run(stage)
    monkeypatch.setattr(_chunks, "CHUNKS_PER_WAVE", 2)
    waves = bench.run(stage, generation=1)
    for name in ("shards/00000.tar", "ledger.parquet", "images.parquet"):
        assert (bench.path(waves) / name).read_bytes() == (bench.path(whole) / name).read_bytes()


def test_a_pair_that_cannot_be_measured_is_failed_not_dropped(bench: Any) -> None:
    data = bench.pairs("download", pairs("a", "d", "f"))
    stage = Filter(data=data, filters=(Duplicates(),))
    with pytest.raises(StageFailed, match=r"1 of 3 pairs could not be measured(.|\n)*duplicates: ImageError"):
        bench.run(stage)
    artifact = bench.run(Filter(data=data, filters=(Duplicates(),), max_failed=0.5))
    assert artifact.facts["failed"] == 1 and artifact.facts["dropped"] == {} and artifact.facts["samples"] == 2
    ledger = {row["id"]: row for row in pq.read_table(bench.path(artifact) / "ledger.parquet").to_pylist()}
    assert ledger["d"]["status"] == "failed" and ledger["d"]["reason"] is None and "truncated" in ledger["d"]["detail"]


def test_a_filter_listed_twice_is_refused(bench: Any) -> None:
    data = bench.pairs("download", pairs("a"))
    with pytest.raises(InputError, match="size is listed twice"):
        bench.run(Filter(data=data, filters=(Size(), Size(min_side_px=3))))


def test_ids_in_another_order_are_refused(tmp_path: Path) -> None:
    rows = [{"id": name, "status": "ok"} for name in ("b", "a")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "ledger.parquet")
    with pytest.raises(StoreError, match="not in the order of ids"):
        Pairs(tmp_path)


@dataclass(frozen=True, kw_only=True)
class EverySecond(RecordFilter):
    """Goes over the records again while it chooses."""

    name: ClassVar[str] = "every_second"

    def choose(self, records: Iterable[Measured]) -> Iterator[tuple[str, str]]:
        for place, record in enumerate(records):
            if place % 2:
                assert len(list(records)) == 6, "a choice counts only when it is complete"
                yield record.pair.id, "second"


def test_filters_may_go_over_the_records_again(bench: Any) -> None:
    root = bench.path(bench.pairs("download", pairs(*"abcefg")))
    given = Pairs(root)
    findings = Findings(root.parent / "findings")
    findings.write(Finding(id=pair.id, sha256=pair.sha256, failed=None) for pair in given)
    decisions = decide(given, findings, (EverySecond(), Size(min_side_px=32)))
    assert [decisions.of(place)[2] for place in range(6)] == [None, "second", None, "second", None, "second"]
    assert decisions.counts() == {("every_second", "second"): 3}
