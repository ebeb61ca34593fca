"""Filter: keeps the image-text pairs that pass a chain of filters; every other one keeps the reason why not.

    pairs -> measured in Ray workers (resumable, only what is new) -> findings on disk
          -> decided in the order of the filters
          -> shards/*.tar images.parquet (kept)   ledger.parquet index.parquet (kept, dropped with reason, failed)

The filters are the files of `stages/filters/`. The first filter in the order that objects gives a pair its reason.
A pair that could not be measured is failed, not dropped, and too many of them fail the stage. Pairs and findings are
streamed, from the ledger of the input and from a file of the work folder, however many there are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llavaflow.datasets._index import IndexWriter, record_bytes, sha256_bytes
from llavaflow.datasets._shards import ImageTable, ShardWriter
from llavaflow.datasets._source import source
from llavaflow.datasets._table import TableWriter, read_rows
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.stages._card import Card, write_card
from llavaflow.stages._chunks import chunked, forget, resumable
from llavaflow.stages._decide import FAILED, KEPT, Decisions, Findings, decide
from llavaflow.stages._measure import Finding, make_measure
from llavaflow.stages._pairs import LEDGER, OK, Pair, Pairs
from llavaflow.stages._stage import Stage
from llavaflow.stages.filters._record_filter import RecordFilter

SOURCE = "filter"


@dataclass(frozen=True, kw_only=True)
class Filter(Stage):
    """Apply `filters`, in order, to the pairs of `data` (a download or another filter).

    max_failed is the share of pairs that may fail to be measured before the stage fails.
    """

    kind: ClassVar[Kind] = "shards"
    # 2: the phrase rules know participles, colours in pairs and more verbs
    version: ClassVar[str] = "2"

    data: Stage
    filters: tuple[RecordFilter, ...]
    batch_size: int = 64
    max_failed: float = 0.01
    images_per_shard: int = 1000

    def run(self, ctx: RunContext) -> Artifact:
        self._check_names()
        root = ctx.path(self.data)
        pairs, findings = Pairs(root), Findings(ctx.work / "findings.jsonl")
        reused = self._measure(ctx, root, pairs, findings)
        decisions = decide(pairs, findings, self.filters)
        self._gate(ctx, pairs, findings, decisions)
        self._write(ctx, root, pairs, findings, decisions)
        kept, failed = decisions.total(KEPT), decisions.total(FAILED)
        dropped: Counter[str] = Counter()
        for (_, reason), count in decisions.counts().items():
            dropped[reason] += count
        ctx.log.info("kept %d of %d pairs\n%s", kept, len(pairs), self._table(decisions))
        write_card(ctx.out, self._card(ctx, len(pairs), kept, dropped))
        counts: dict[str, Any] = {"samples": kept, "read": len(pairs), "failed": failed, "reused": reused}
        for rule in self.filters:
            counts.update(rule.facts())
        return ctx.finish({**counts, "dropped": dict(sorted(dropped.items()))})

    def _check_names(self) -> None:
        names = [rule.name for rule in self.filters]
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise InputError(f"filter {', '.join(twice)} is listed twice: give each filter once per stage.")

    def _measure(self, ctx: RunContext, root: Path, pairs: Pairs, findings: Findings) -> int:
        """Write the findings on every pair and say how many an earlier generation had; the others are measured."""
        is_known = np.zeros(len(pairs), bool)
        for place, known in enumerate(_along(pairs, self._known(ctx))):
            is_known[place] = known is not None
        todo = (pair for pair, known in zip(pairs, is_known, strict=True) if not known)
        measured = resumable(
            ctx,
            "filter",
            chunked(todo, self.batch_size),
            make_measure,
            lambda: self._arguments(ctx, root),
            lambda item: vars(item),
            total=int((~is_known).sum()),
        )
        new = (Finding(**row) for rows in measured for row in rows)
        findings.write(known or next(new) for known in _along(pairs, self._known(ctx)))
        return int(is_known.sum())

    def _arguments(self, ctx: RunContext, root: Path) -> dict[str, Any]:
        return {
            "filters": self.filters,
            "prepared": {rule.name: rule.prepare(ctx) for rule in self.filters},
            "root": root,
        }

    def _known(self, ctx: RunContext) -> Iterator[Finding]:
        """What the previous generation measured, in the order of ids, without what failed there."""
        if ctx.previous is None:
            return
        ledger = ctx.store.local_path(ctx.previous) / LEDGER
        for row in read_rows(ledger, ["id", "sha256", "status", "signals"], batch=4096):
            if row["status"] != "failed":
                yield Finding(id=row["id"], sha256=row["sha256"], signals=json.loads(row["signals"]))

    def _gate(self, ctx: RunContext, pairs: Pairs, findings: Findings, decisions: Decisions) -> None:
        failed = decisions.total(FAILED)
        if failed <= self.max_failed * len(pairs):
            return
        # the next run measures the failed chunks again and keeps the others
        forget(ctx, "filter", lambda rows: any(row["failed"] for row in rows))
        details = {finding.failed for _, finding in findings.beside(pairs) if finding.failed}
        examples = "\n".join(f"  {detail}" for detail in sorted(details)[:5])
        raise StageFailed(
            f"{failed} of {len(pairs)} pairs could not be measured "
            f"(max_failed allows {self.max_failed:.1%}). Such as:\n{examples}"
        )

    def _write(self, ctx: RunContext, root: Path, pairs: Pairs, findings: Findings, decisions: Decisions) -> None:
        images, up = ImageTable(root), ctx.artifact(self.data).fingerprint
        with (
            ShardWriter(ctx.out, per_shard=self.images_per_shard) as shards,
            ledger_writer(ctx.out) as ledger,
            IndexWriter(ctx.out) as index,
        ):
            for number, (pair, finding) in enumerate(findings.beside(pairs)):
                status, rule, reason = decisions.of(number)
                row = _ledger_row(pair, finding, status, rule, reason)
                ledger.add(row)
                place: dict[str, Any] = {"file": LEDGER, "row": number, "sha256": sha256_bytes(record_bytes(row))}
                if status == OK:
                    meta = {"id": pair.id, "url": pair.url, "caption": pair.caption}
                    data = images.open(pair.image)
                    placed = shards.add(pair.image, data, meta, width=pair.width, height=pair.height)
                    place = {"file": placed.file, "row": placed.row, "sha256": placed.sha256}
                index.add(pair.id, source=SOURCE, parents=[f"{up}:{pair.id}"], url=pair.url, dropped=reason, **place)

    def _card(self, ctx: RunContext, read: int, kept: int, dropped: Mapping[str, int]) -> Card:
        chain = ", ".join(rule.name.replace("_", " ") for rule in self.filters)
        return Card(
            title="Image-text pairs, filtered",
            form="pairs",
            fingerprint=ctx.fingerprint,
            samples=kept,
            about=[f"{kept:,} of {read:,} pairs passed, in this order: {chain}."],
            licences=[source("url-table").licence],
            dropped=dropped,
        )

    def _table(self, decisions: Decisions) -> str:
        order = {rule.name: position for position, rule in enumerate(self.filters)}
        ranked = sorted(decisions.counts().items(), key=lambda item: (order[item[0][0]], -item[1]))
        return "\n".join(f"  {rule:<20} {reason:<22} {count:>8}" for (rule, reason), count in ranked)


def _along(pairs: Pairs, known: Iterator[Finding]) -> Iterator[Finding | None]:
    """For every pair what is known of it, when its image is still the same; both in the order of ids."""
    item = next(known, None)
    for pair in pairs:
        while item is not None and item.id < pair.id:
            item = next(known, None)
        yield item if item is not None and (item.id, item.sha256) == (pair.id, pair.sha256) else None


def ledger_writer(root: Path) -> TableWriter:
    """The ledger of a filter: every pair with its status, reason and signals."""
    import pyarrow as pa

    texts = ("id", "url", "caption", "image", "sha256", "status", "filter", "reason", "detail", "signals")
    numbers = [(name, pa.int64()) for name in ("width", "height")]
    return TableWriter(root / LEDGER, pa.schema([(name, pa.string()) for name in texts] + numbers))


def _ledger_row(pair: Pair, finding: Finding, status: str, rule: str | None, reason: str | None) -> dict[str, Any]:
    return {
        "id": pair.id,
        "url": pair.url,
        "caption": pair.caption,
        "image": pair.image,
        "sha256": pair.sha256,
        "status": status,
        "filter": rule,
        "reason": reason,
        "detail": finding.failed,
        "signals": json.dumps(finding.signals, sort_keys=True),
        "width": pair.width,
        "height": pair.height,
    }
