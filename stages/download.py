"""Download: a table of URLs becomes image shards and a ledger that says of every URL what became of it.

    urls table -> img2dataset (own environment, own process) -> egress proxy -> the web
               -> sorted by id, re-sharded -> shards/*.tar images.parquet ledger.parquet index.parquet

img2dataset does the fetching (threads, decoding, opt-out headers, retries); this stage decides what is fetched, keeps
the ledger, and makes the result independent of the order in which servers answered. A refresh fetches only what
failed before or is new. Too few successes fail the stage, with the histogram of reasons.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from llavaflow.datasets._index import IndexWriter, record_bytes, sha256_bytes
from llavaflow.datasets._shards import ShardWriter
from llavaflow.datasets._source import source
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.models.pixels import ImageError, image_size
from llavaflow.stages._card import Card, write_card
from llavaflow.stages._egress import EgressProxy
from llavaflow.stages._fetch import Fetched, Group, Wanted, Way, fetch_groups, groups_of, make_fetcher
from llavaflow.stages._fetch_ledger import ledger_row, ledger_writer, read_successes
from llavaflow.stages._pairs import LEDGER
from llavaflow.stages._reasons import histogram, is_transient
from llavaflow.stages._stage import Stage
from llavaflow.stages._url_table import Entry, parents_by_row, read_urls
from llavaflow.stages._web import WorldWeb

SOURCE = "url-table"
REPEATED = "repeated-url"
OPT_OUT = ("noai", "noimageai", "noindex", "noimageindex")
THREADS_PER_PROCESS = 32
STALL_S = 120.0
# the proxy keeps the time; img2dataset's own clock also runs while a request waits for its turn
BACKSTOP = 20

# gives the results of one source of images from the start, in the order of ids
Results = Callable[[], Iterable[Fetched]]


@dataclass(frozen=True, kw_only=True)
class Download(Stage):
    """Fetch the images of a URL table: `urls` is the stage that made it (and `table` the file inside), or a Path.

    web            the generated world whose `web/` folder answers for `*.scenes.test`; None: only the real web
    resize         "no" keeps a JPEG's own bytes; "keep_ratio_largest" shrinks the longer side to `image_size_px`
    retry_passes   further passes over the URLs whose failure may heal (time-outs, 5xx, DNS)
    success_floor  the share of URLs that must give an image
    allow_hosts    hosts that may resolve to private addresses
    """

    kind: ClassVar[Kind] = "shards"

    urls: Stage | Path
    table: str = "raw/urls/urls.parquet"
    url_column: str = "URL"
    caption_column: str | None = "TEXT"
    web: Stage | None = None
    resize: Literal["no", "keep_ratio_largest"] = "no"
    image_size_px: int = 1344
    encode_quality: int = 95
    min_side_px: int = 0
    max_pixels: int = 89_478_485
    max_bytes: int = 64 * 2**20
    timeout_s: int = 10
    retries: int = 1
    retry_passes: int = 0
    per_host: int = 8
    user_agent_token: str = "llavaflow"
    honour_opt_out: bool = True
    allow_hosts: tuple[str, ...] = ()
    success_floor: float = 0.5
    images_per_shard: int = 1000

    def run(self, ctx: RunContext) -> Artifact:
        table = self._table(ctx)
        entries, repeated = read_urls(table, self.url_column, self.caption_column)
        if not entries:
            raise InputError(f"the URL table {table} is empty: there is nothing to download.")
        known = self._known(ctx, entries)
        sources: list[Results] = [lambda: known]
        for number in range(self._passes(ctx)):
            retry_only_transient = 0 < number <= self.retry_passes
            wanted = _wanted(entries, sources, retry_only_transient)
            if not wanted:
                break
            sources.append(self._fetch(ctx, wanted, number))
        reasons = self._write(ctx, entries, repeated, sources)
        self._gate(ctx, len(entries), reasons)
        samples = len(entries) - reasons.total()
        if repeated:
            reasons[REPEATED] = len(repeated)
        reused = sum(item.reason is None for item in known)
        dropped = dict(sorted(reasons.items()))
        write_card(ctx.out, self._card(ctx, samples, len(entries), dropped))
        return ctx.finish({"samples": samples, "urls": len(entries), "reused": reused, "dropped": dropped})

    def _card(self, ctx: RunContext, samples: int, urls: int, dropped: Mapping[str, int]) -> Card:
        refused = f"not of pages that say {', '.join(OPT_OUT)}" if self.honour_opt_out else "opt-out headers ignored"
        return Card(
            title=f"Images of a URL table ({self._table(ctx).name})",
            form="pairs",
            fingerprint=ctx.fingerprint,
            samples=samples,
            about=[f"{samples:,} images of {urls:,} distinct URLs, with their texts; {refused}."],
            licences=[source("url-table").licence],
            dropped=dropped,
        )

    def _table(self, ctx: RunContext) -> Path:
        return self.urls if isinstance(self.urls, Path) else ctx.path(self.urls) / self.table

    def _known(self, ctx: RunContext, entries: Sequence[Entry]) -> list[Fetched]:
        """What needs no fetching: images that the previous generation has, and what is not a web address at all."""
        refused = [Fetched(id=entry.id, reason="malformed-url") for entry in entries if not _is_web(entry.url)]
        if ctx.previous is None:
            return refused
        kept = read_successes(ctx.store.local_path(ctx.previous), {entry.id for entry in entries})
        ctx.log.info("%d of %d URLs were fetched by the previous generation", len(kept), len(entries))
        return sorted([*kept, *refused], key=lambda item: item.id)

    def _passes(self, ctx: RunContext) -> int:
        """The first pass, the retries of the recipe, and one more for every time the success floor was missed."""
        started = sum(1 for _ in ctx.work.glob("pass-*"))
        return max(1 + self.retry_passes, started)

    def _fetch(self, ctx: RunContext, wanted: Sequence[Wanted], number: int) -> Results:
        groups = groups_of(wanted, ctx.work / f"pass-{number:03d}")
        left = [group for group in groups if group.done() < len(group.wanted)]
        if left:
            with ExitStack() as stack:
                way = self._way(ctx, stack)
                bar = stack.enter_context(ctx.progress.bar("download", len(wanted)))
                bar.advance(len(wanted) - sum(len(group.wanted) for group in left))
                for done in self._spread(ctx, left, way):
                    bar.advance(done)
        return lambda: _chained(groups)

    def _spread(self, ctx: RunContext, groups: Sequence[Group], way: Way) -> Iterator[int]:
        """Fetch groups here, or over the nodes of a larger machine (whose store is a folder that all of them see)."""
        if ctx.machine.nodes == 1 or self.web is not None:
            return fetch_groups(groups, way)
        from llavaflow.infra.ray import map_batches

        return map_batches(groups, make_fetcher, arguments={"way": way}, batch_size=1, workers=ctx.machine.nodes)

    def _way(self, ctx: RunContext, stack: ExitStack) -> Way:
        host_map: dict[str, tuple[str, int]] = {}
        if self.web is not None:
            web = stack.enter_context(WorldWeb(ctx.path(self.web) / "web"))
            host_map = dict.fromkeys(web.hosts, web.address)
        proxy = EgressProxy(
            allow_hosts=self.allow_hosts,
            host_map=host_map,
            per_host=max(1, self.per_host // ctx.machine.nodes),
            max_bytes=self.max_bytes,
            timeout_s=self.timeout_s,
        )
        stall_s = max(STALL_S, 2.0 * BACKSTOP * self.timeout_s)
        return Way(proxy=proxy, options=self._options(ctx), env=self._env(), stall_s=stall_s)

    def _options(self, ctx: RunContext) -> dict[str, Any]:
        """Every option of img2dataset that bears on the result, given explicitly: its defaults add white borders."""
        return {
            "input_format": "parquet",
            "url_col": "url",
            "save_additional_columns": ["id"],
            "output_format": "webdataset",
            "incremental_mode": "incremental",
            "resize_mode": self.resize,
            "image_size": self.image_size_px,
            "resize_only_if_bigger": True,
            "skip_reencode": True,
            "encode_format": "jpg",
            "encode_quality": self.encode_quality,
            "extract_exif": False,
            "compute_hash": "sha256",
            "min_image_size": self.min_side_px,
            "max_image_area": self.max_pixels,
            "timeout": BACKSTOP * self.timeout_s,
            "retries": self.retries,
            "user_agent_token": self.user_agent_token,
            "disallowed_header_directives": list(OPT_OUT) if self.honour_opt_out else [],
            "enable_wandb": False,
            "distributor": "multiprocessing",
            "processes_count": max(1, ctx.machine.cores // 2),
            "thread_count": THREADS_PER_PROCESS,
            "max_shard_retry": 1,
        }

    def _env(self) -> dict[str, str]:
        """A bare environment: no secrets of ours, and no news from home."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        # checked by OpenCV on the header, before a decompression bomb unfolds
        return kept | quiet | {"OPENCV_IO_MAX_IMAGE_PIXELS": str(self.max_pixels)}

    def _write(
        self, ctx: RunContext, entries: Sequence[Entry], repeated: Sequence[Entry], sources: Sequence[Results]
    ) -> Counter[str]:
        """Shards, image table, ledger and index, in the order of ids; returns the reasons of what failed."""
        parents = _parents(ctx, self.urls, self.table)
        reasons: Counter[str] = Counter()
        ctx.out.mkdir(parents=True, exist_ok=True)
        with (
            ShardWriter(ctx.out, per_shard=self.images_per_shard) as shards,
            ledger_writer(ctx.out) as ledger,
            IndexWriter(ctx.out) as index,
        ):
            for entry, item in zip(entries, _best(sources), strict=True):
                up = [parents[entry.row]] if entry.row in parents else []
                if item.reason is None:
                    meta = {"id": entry.id, "url": entry.url, "caption": entry.caption}
                    name = f"{entry.id[:2]}/{entry.id}.jpg"
                    data = item.load()
                    item = as_shown(item, data)
                    placed = shards.add(name, data, meta, width=item.width, height=item.height)
                    ledger.add(ledger_row(entry.url, entry.caption, item, name, placed.sha256))
                    place: dict[str, Any] = {"file": placed.file, "row": placed.row, "sha256": placed.sha256}
                else:
                    reasons[item.reason] += 1
                    row = ledger_row(entry.url, entry.caption, item, None, None)
                    digest = sha256_bytes(record_bytes(row))
                    place = {"file": LEDGER, "row": ledger.add(row), "sha256": digest, "dropped": item.reason}
                index.add(entry.id, source=SOURCE, parents=up, url=entry.url, **place)
            for entry in repeated:
                up = [parents[entry.row]] if entry.row in parents else []
                index.add(f"{entry.id}-{entry.row}", source=SOURCE, parents=up, url=entry.url, dropped=REPEATED)
        return reasons

    def _gate(self, ctx: RunContext, urls: int, reasons: Counter[str]) -> None:
        ok = urls - reasons.total()
        ctx.log.info("downloaded %d of %d URLs\n%s", ok, urls, histogram(reasons, urls))
        if ok >= self.success_floor * urls:
            return
        # the next run of this stage tries what failed once more and keeps what it has
        (ctx.work / f"pass-{self._passes(ctx):03d}").mkdir(parents=True)
        raise StageFailed(
            f"only {ok} of {urls} URLs gave an image ({100 * ok / urls:.1f} %, the floor is "
            f"{100 * self.success_floor:.0f} %). Reasons:\n{histogram(reasons, urls)}\n"
            f"{_advice(reasons)}Run again to retry the failed ones, or lower success_floor if this is what the web has."
        )


def _advice(reasons: Counter[str]) -> str:
    """What the commonest reason points at, where that is not the web."""
    if reasons and max(reasons, key=lambda reason: reasons[reason]) == "dns":
        return "Most names did not resolve: check the resolver of this machine before blaming the links. "
    return ""


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def as_shown(item: Fetched, data: bytes) -> Fetched:
    """With the size of the upright image: img2dataset looks past the EXIF orientation of the bytes that it keeps."""
    try:
        width, height = image_size(data)
    except ImageError:  # OpenCV decodes some files that Pillow does not: the decode filter drops them
        return item
    return replace(item, width=width, height=height)


def _wanted(entries: Sequence[Entry], sources: Sequence[Results], only_transient: bool) -> list[Wanted]:
    """The URLs that no source has an image of yet."""
    last = {item.id: item.reason for item in _best(sources)}
    return [
        Wanted(id=entry.id, url=entry.url)
        for entry in entries
        if _is_web(entry.url) and (entry.id not in last or _may_heal(last[entry.id], only_transient))
    ]


def _may_heal(reason: str | None, only_transient: bool) -> bool:
    return reason is not None and (is_transient(reason) or not only_transient)


def _chained(groups: Sequence[Group]) -> Iterator[Fetched]:
    for group in groups:
        yield from group.results()


def _best(sources: Sequence[Results]) -> Iterator[Fetched]:
    """One result per id, in the order of ids: an image where any source has one, else the latest reason."""
    merged = heapq.merge(*(source() for source in sources), key=lambda item: item.id)
    for _, items in groupby(merged, key=lambda item: item.id):
        tries = list(items)
        yield next((item for item in tries if item.reason is None), tries[-1])


def _parents(ctx: RunContext, urls: Stage | Path, table: str) -> dict[int, str]:
    if isinstance(urls, Path):
        return {}
    return dict(parents_by_row(ctx.path(urls), ctx.artifact(urls).fingerprint, table))
