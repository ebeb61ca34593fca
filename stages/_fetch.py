"""Fetching: URLs in, image bytes or a reason out, through img2dataset in groups of shards that survive a kill.

The URLs, sorted by id, are cut into groups, and each group is one run of img2dataset into its own folder. Its shards
are the durable unit: a shard counts when its `_stats.json` exists, and a later run of the same group fetches only the
shards that lack one. img2dataset writes samples in the order in which they complete; `Group.results` gives them back
in the order of ids.

A watchdog ends a run in which nothing moved for `stall_s` and starts it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.stages._egress import EgressProxy
from llavaflow.stages._reasons import reason_of

RUNNER = Path(__file__).with_name("_img2dataset.py")
URLS_PER_GROUP = 100_000
POLL_S = 0.2
MAX_RESTARTS = 3


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A URL to fetch, under the id that its record will have."""

    id: str
    url: str


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What became of a URL: an image (reason None), or the reason why there is none."""

    id: str
    reason: str | None
    detail: str = ""
    fetched_sha256: str | None = None
    width: int = 0
    height: int = 0
    load: Callable[[], bytes] = bytes


def interpreter() -> Path:
    """The Python of img2dataset's own environment."""
    home = Path(os.environ.get("LLAVAFLOW_IMG2DATASET", Path(sys.prefix) / "img2dataset"))
    python = home / "bin" / "python"
    if not python.exists():
        raise InputError(f"img2dataset is not installed (looked for {python}). Run `pipeline setup` once.")
    return python


@dataclass(frozen=True, kw_only=True)
class Way:
    """How to fetch: the proxy in front, img2dataset's options and environment, and how long may nothing happen."""

    proxy: EgressProxy
    options: Mapping[str, Any]
    env: Mapping[str, str]
    stall_s: float


def fetch_groups(groups: Sequence[Group], way: Way) -> Iterator[int]:
    """Fetch groups one after the other behind one proxy, yielding how many more URLs are done."""
    with way.proxy as proxy:
        ways_out = dict.fromkeys(("http_proxy", "https_proxy", "ftp_proxy"), proxy.url)
        for group in groups:
            before = 0
            for done in group.fetch(way.options, {**way.env, **ways_out}, lambda: proxy.requests, way.stall_s):
                yield done - before
                before = done


def make_fetcher(*, way: Way) -> Callable[[list[Group]], list[int]]:
    """The same as a worker's function, for groups that are spread over nodes with a shared work folder."""
    return lambda groups: [sum(fetch_groups([group], way)) for group in groups]


def groups_of(wanted: Sequence[Wanted], folder: Path) -> list[Group]:
    """The groups into which a list of URLs, sorted by id, is cut; the cut does not depend on the machine."""
    starts = range(0, len(wanted), URLS_PER_GROUP)
    return [Group(folder / f"{start:09d}", wanted[start : start + URLS_PER_GROUP]) for start in starts]


class Group:
    """One run of img2dataset over a slice of the URLs."""

    def __init__(self, folder: Path, wanted: Sequence[Wanted]) -> None:
        self.folder = folder
        self.shards = folder / "shards"
        self.wanted = wanted
        # img2dataset renews its workers every five shards, and a shard is what a kill loses
        self.per_shard = max(100, min(1000, len(wanted) // 5))

    def done(self) -> int:
        """The number of URLs whose shard is complete."""
        return sum(len(self._slice(shard)) for shard in self._complete())

    def fetch(
        self, options: Mapping[str, Any], env: Mapping[str, str], alive: Callable[[], int], stall_s: float
    ) -> Iterator[int]:
        """Fetch what is missing, yielding the number of URLs done now and then."""
        self._forget_lost()
        for _ in range(MAX_RESTARTS):
            if self.done() == len(self.wanted):
                return
            process = self._start(options, env)
            try:
                yield from self._watch(process, alive, stall_s)
            finally:
                process.kill()
                process.wait()
        if self.done() < len(self.wanted):
            raise StageFailed(f"img2dataset gave up {MAX_RESTARTS} times. Its last words:\n{self._tail()}")

    def results(self) -> Iterator[Fetched]:
        """What became of every URL of this group, in the order of ids."""
        for shard in range(self._count()):
            yield from self._shard_results(shard)

    def _shard_results(self, shard: int) -> Iterator[Fetched]:
        import pyarrow.parquet as pq

        rows = pq.read_table(self.shards / f"{shard:05d}.parquet").to_pylist()
        by_id = {row["id"]: row for row in rows}
        path = self.shards / f"{shard:05d}.tar"
        with tarfile.open(path) as tar:
            places = {member.name: (member.offset_data, member.size) for member in tar}
        for wanted in self._slice(shard):
            yield _fetched(wanted.id, by_id.get(wanted.id), path, places)

    def _count(self) -> int:
        return -(-len(self.wanted) // self.per_shard)

    def _slice(self, shard: int) -> Sequence[Wanted]:
        return self.wanted[shard * self.per_shard : (shard + 1) * self.per_shard]

    def _complete(self) -> list[int]:
        return [shard for shard in range(self._count()) if (self.shards / f"{shard:05d}_stats.json").exists()]

    def _forget_lost(self) -> None:
        """Drop shards that saw our own proxy die: their failures say nothing about the URLs."""
        import pyarrow.parquet as pq

        for shard in self._complete():
            messages = pq.read_table(self.shards / f"{shard:05d}.parquet", columns=["error_message"])
            if any(reason_of(text) == "proxy-lost" for text in messages.column(0).to_pylist() if text):
                (self.shards / f"{shard:05d}_stats.json").unlink()

    def _start(self, options: Mapping[str, Any], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder.mkdir(parents=True, exist_ok=True)
        rows = [{"url": item.url, "id": item.id} for item in self.wanted]
        pq.write_table(pa.Table.from_pylist(rows), self.folder / "urls.parquet")
        job = {
            "url_list": str(self.folder / "urls.parquet"),
            "output_folder": str(self.shards),
            "number_sample_per_shard": self.per_shard,
            **options,
        }
        (self.folder / "job.json").write_text(json.dumps(job, indent=1))
        # its workers are ended without a chance to clean up; what they leave goes with the work folder
        scratch = self.folder / "tmp"
        scratch.mkdir(exist_ok=True)
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [str(interpreter()), str(RUNNER), str(self.folder / "job.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**env, "TMPDIR": str(scratch)},
                cwd=self.folder,
            )

    def _watch(self, process: subprocess.Popen[bytes], alive: Callable[[], int], stall_s: float) -> Iterator[int]:
        seen, moved_at = (0, 0), time.monotonic()
        while process.poll() is None:
            time.sleep(POLL_S)
            state = alive(), self.done()
            if state != seen:
                seen, moved_at = state, time.monotonic()
                yield state[1]
            elif time.monotonic() - moved_at > stall_s:
                return
        yield self.done()

    def _tail(self) -> str:
        return "\n".join((self.folder / "log.txt").read_text(errors="replace").splitlines()[-12:])


def _fetched(id: str, row: Mapping[str, Any] | None, tar: Path, places: Mapping[str, tuple[int, int]]) -> Fetched:
    if row is None:
        return Fetched(id=id, reason="not-reported", detail="img2dataset wrote no row for this URL")
    if row["status"] != "success":
        message = str(row["error_message"] or row["status"])
        return Fetched(id=id, reason=reason_of(message), detail=" ".join(message.split())[:200])
    return Fetched(
        id=id,
        reason=None,
        fetched_sha256=row["sha256"],
        width=row["width"],
        height=row["height"],
        load=partial(_read_at, tar, *places[f"{row['key']}.jpg"]),
    )


def _read_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)
