"""Filter: keeps the image-text pairs that pass a chain of filters; every other one keeps the reason why not.

    pairs -> measured in Ray workers (resumable, only what is new) -> decided in the order of the filters
          -> shards/*.tar images.parquet (kept)   ledger.parquet index.parquet (kept, dropped with reason, failed)

The filters are the files of `stages/filters/`. The first filter in the order that objects gives a pair its reason.
A pair that could not be measured is failed, not dropped, and too many of them fail the stage.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llavaflow.datasets._index import IndexWriter, record_bytes, sha256_bytes
from llavaflow.datasets._shards import ImageTable, ShardWriter
from llavaflow.datasets._table import TableWriter
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.stages._chunks import chunked, forget, resumable
from llavaflow.stages._measure import Finding, make_measure
from llavaflow.stages._pairs import LEDGER, OK, Pair, read_pairs
from llavaflow.stages._stage import Stage
from llavaflow.stages.filters._record_filter import Measured, RecordFilter

SOURCE = "filter"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a pair came to: kept (no rule), dropped by a rule for a reason, or failed with a detail."""

    rule: str | None = None
    reason: str | None = None
    failed: str | None = None

    @property
    def status(self) -> str:
        return "failed" if self.failed else "dropped" if self.reason else OK


@dataclass(frozen=True, kw_only=True)
class Filter(Stage):
    """Apply `filters`, in order, to the pairs of `data` (a download or another filter).

    max_failed is the share of pairs that may fail to be measured before the stage fails.
    """

    kind: ClassVar[Kind] = "shards"

    data: Stage
    filters: tuple[RecordFilter, ...]
    batch_size: int = 64
    max_failed: float = 0.01
    images_per_shard: int = 1000

    def run(self, ctx: RunContext) -> Artifact:
        self._check_names()
        root = ctx.path(self.data)
        pairs = read_pairs(root)
        findings, reused = self._measure(ctx, root, pairs)
        decisions = self._decide(pairs, findings)
        self._gate(ctx, pairs, decisions)
        self._write(ctx, root, pairs, findings, decisions)
        dropped = Counter(decision.reason for decision in decisions.values() if decision.reason)
        status = Counter(decision.status for decision in decisions.values())
        ctx.log.info("kept %d of %d pairs\n%s", status[OK], len(pairs), self._table(decisions))
        counts = {"samples": status[OK], "read": len(pairs), "failed": status["failed"], "reused": reused}
        return ctx.finish({**counts, "dropped": dict(sorted(dropped.items()))})

    def _check_names(self) -> None:
        names = [rule.name for rule in self.filters]
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise InputError(f"filter {', '.join(twice)} is listed twice: give each filter once per stage.")

    def _measure(self, ctx: RunContext, root: Path, pairs: Sequence[Pair]) -> tuple[dict[str, Finding], int]:
        """The findings on every pair by id, and how many an earlier generation had; measures only what is missing."""
        wanted = {pair.id: pair.sha256 for pair in pairs}
        known = {item.id: item for item in self._known(ctx) if wanted.get(item.id) == item.sha256}
        reused = len(known)
        todo = chunked([pair for pair in pairs if pair.id not in known], self.batch_size)
        for found in resumable(
            ctx, "filter", todo, make_measure, lambda: self._arguments(ctx, root), lambda item: vars(item)
        ):
            known |= {row["id"]: Finding(**row) for row in found}
        return known, reused

    def _arguments(self, ctx: RunContext, root: Path) -> dict[str, Any]:
        return {
            "filters": self.filters,
            "prepared": {rule.name: rule.prepare(ctx) for rule in self.filters},
            "root": root,
        }

    def _known(self, ctx: RunContext) -> list[Finding]:
        """What the previous generation measured, without what failed there."""
        import pyarrow.parquet as pq

        if ctx.previous is None:
            return []
        table = pq.read_table(
            ctx.store.local_path(ctx.previous) / LEDGER, columns=["id", "sha256", "status", "signals"]
        )
        return [
            Finding(id=row["id"], sha256=row["sha256"], signals=json.loads(row["signals"]))
            for row in table.to_pylist()
            if row["status"] != "failed"
        ]

    def _decide(self, pairs: Sequence[Pair], findings: Mapping[str, Finding]) -> dict[str, Decision]:
        """The decision on every pair: the filters one after the other, each over what is left."""
        records = [Measured(pair=pair, signals=findings[pair.id].signals) for pair in pairs]
        decisions = {item.id: Decision(failed=item.failed) for item in findings.values() if item.failed}
        for rule in self.filters:
            left = [record for record in records if record.pair.id not in decisions]
            for record in left:
                signal = record.signals.get(rule.name)
                if signal is not None and (reason := rule.verdict(signal)):
                    decisions[record.pair.id] = Decision(rule=rule.name, reason=reason)
            left = [record for record in left if record.pair.id not in decisions]
            for id, reason in rule.choose(left):
                decisions[id] = Decision(rule=rule.name, reason=reason)
        return {pair.id: decisions.get(pair.id, Decision()) for pair in pairs}

    def _gate(self, ctx: RunContext, pairs: Sequence[Pair], decisions: Mapping[str, Decision]) -> None:
        failed = [decision.failed for decision in decisions.values() if decision.failed]
        if len(failed) <= self.max_failed * len(pairs):
            return
        # the next run measures the failed chunks again and keeps the others
        forget(ctx, "filter", lambda rows: any(row["failed"] for row in rows))
        examples = "\n".join(f"  {detail}" for detail in sorted(set(failed))[:5])
        raise StageFailed(
            f"{len(failed)} of {len(pairs)} pairs could not be measured "
            f"(max_failed allows {self.max_failed:.1%}). Such as:\n{examples}"
        )

    def _write(
        self,
        ctx: RunContext,
        root: Path,
        pairs: Sequence[Pair],
        findings: Mapping[str, Finding],
        decisions: Mapping[str, Decision],
    ) -> None:
        images, up = ImageTable(root), ctx.artifact(self.data).fingerprint
        with (
            ShardWriter(ctx.out, per_shard=self.images_per_shard) as shards,
            _ledger_writer(ctx.out) as ledger,
            IndexWriter(ctx.out) as index,
        ):
            for pair in pairs:
                decision = decisions[pair.id]
                row = _ledger_row(pair, findings[pair.id], decision)
                number = ledger.add(row)
                place: dict[str, Any] = {"file": LEDGER, "row": number, "sha256": sha256_bytes(record_bytes(row))}
                if decision.status == OK:
                    meta = {"id": pair.id, "url": pair.url, "caption": pair.caption}
                    data = images.open(pair.image)
                    placed = shards.add(pair.image, data, meta, width=pair.width, height=pair.height)
                    place = {"file": placed.file, "row": placed.row, "sha256": placed.sha256}
                index.add(
                    pair.id, source=SOURCE, parents=[f"{up}:{pair.id}"], url=pair.url, dropped=decision.reason, **place
                )

    def _table(self, decisions: Mapping[str, Decision]) -> str:
        counts = Counter((decision.rule, decision.reason) for decision in decisions.values() if decision.rule)
        order = {rule.name: position for position, rule in enumerate(self.filters)}
        ranked = sorted(counts.items(), key=lambda item: (order[item[0][0] or ""], -item[1]))
        return "\n".join(f"  {rule:<20} {reason:<22} {count:>8}" for (rule, reason), count in ranked)


def _ledger_writer(root: Path) -> TableWriter:
    import pyarrow as pa

    texts = ("id", "url", "caption", "image", "sha256", "status", "filter", "reason", "detail", "signals")
    numbers = [(name, pa.int64()) for name in ("width", "height")]
    return TableWriter(root / LEDGER, pa.schema([(name, pa.string()) for name in texts] + numbers))


def _ledger_row(pair: Pair, finding: Finding, decision: Decision) -> dict[str, Any]:
    return {
        "id": pair.id,
        "url": pair.url,
        "caption": pair.caption,
        "image": pair.image,
        "sha256": pair.sha256,
        "status": decision.status,
        "filter": decision.rule,
        "reason": decision.reason,
        "detail": decision.failed,
        "signals": json.dumps(finding.signals, sort_keys=True),
        "width": pair.width,
        "height": pair.height,
    }
