"""Lease: one live run makes an artifact at a time, on a folder and on S3 alike.

A lease is a small JSON object under `leases/<fingerprint>.json`, written only by `swap`, so that of two runs exactly
one gets it. Its owner refreshes the heartbeat from a thread; the thread dies with the process. A lease is taken over

    at once      when its owner ran on this machine and that process is gone (pid and start time)
    after 60 s   without a heartbeat when its owner is elsewhere, and only after watching it for a little longer,
                 since clocks of two machines may differ

Freeing writes a tombstone: unlike a delete it is conditional everywhere, so it cannot hit a successor's lease.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType

import psutil

from llavaflow.infra.backend import Backend
from llavaflow.infra.errors import StoreBusy, StoreError

HEARTBEAT_S = 10.0
DEAD_AFTER_S = 60.0
WATCH_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process, named so that a reused pid or a cloned host name is not taken for it."""

    host: str
    pid: int
    started: float
    token: str
    heartbeat: float
    free: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.split(':')[0]}"


@cache
def this_host() -> str:
    """Host name, boot and pid namespace: only where all three agree does a pid mean the same process."""
    parts = [socket.gethostname()]
    try:
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text()[:8], os.readlink("/proc/self/ns/pid")[5:-1]]
    except OSError:
        parts.append(f"{psutil.boot_time():.0f}")
    return ":".join(parts)


def this_process() -> Owner:
    """A new owner for the running process."""
    started = psutil.Process().create_time()
    return Owner(host=this_host(), pid=os.getpid(), started=started, token=uuid.uuid4().hex, heartbeat=time.time())


def is_gone(owner: Owner) -> bool:
    """Whether an owner on this host no longer runs. A zombie, killed but not yet reaped, is gone."""
    try:
        process = psutil.Process(owner.pid)
        return abs(process.create_time() - owner.started) > 1.0 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


class Lease:
    """The right to make one artifact, held while the `with` block runs.

    Entering raises StoreBusy when a live run holds it for longer than `wait_s`. After a wait the artifact may exist:
    look for it again inside the block.
    """

    def __init__(
        self,
        backend: Backend,
        fingerprint: str,
        *,
        wait_s: float = 0.0,
        on_wait: Callable[[str], None] | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        dead_after_s: float = DEAD_AFTER_S,
        watch_s: float = WATCH_S,
    ) -> None:
        self._backend = backend
        self._key = f"leases/{fingerprint}.json"
        self._fingerprint = fingerprint
        self._wait_s, self._on_wait = wait_s, on_wait
        self._heartbeat_s, self._dead_after_s, self._watch_s = heartbeat_s, dead_after_s, watch_s
        self._owner = this_process()
        self._tag: str | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watched: dict[str, float] = {}

    def __enter__(self) -> Lease:
        began = looked = 0.0
        told = False
        while (holder := self._try()) is not None:
            # counted from the first answer, so that a slow store does not use up the time for the watch
            began = began or time.monotonic()
            looked = looked or began
            text = self._describe(holder)
            if looked >= began + self._wait_s + self._grace_s(holder):
                raise StoreBusy(
                    f"{text}. Wait until that run ends and start again: what it has built will be found. "
                    f"If it was killed on another machine, it loses its hold {self._dead_after_s:.0f} s after that."
                )
            if self._on_wait and not told:
                self._on_wait(text)
                told = True
            time.sleep(min(1.0, self._heartbeat_s / 2))
            looked = time.monotonic()
        threading.Thread(target=self._beat, name=f"lease-{self._fingerprint}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        with self._lock:
            if self._tag is None:
                return
            try:
                self._backend.swap(self._key, _encode(replace(self._owner, free=True)), self._tag)
            except StoreError:
                # the owner's process is about to be gone, which frees it as well; the first error matters more
                if error is None:
                    raise

    @property
    def ended(self) -> bool:
        """Whether the `with` block was left."""
        return self._stop.is_set()

    def confirm(self) -> None:
        """Renew now; raises StoreBusy when another run has taken over (this process slept, or was cut off)."""
        with self._lock:
            if self._tag is not None:
                self._renew()
            if self._tag is None:
                raise StoreBusy(
                    f"lost the hold on {self._fingerprint}: this run gave no sign of life for over "
                    f"{self._dead_after_s:.0f} s and another took over. Nothing was published; run again to find "
                    "what it has built."
                )

    def _try(self) -> Owner | None:
        """Take the lease if it is free or its owner is dead; otherwise the owner."""
        blob = self._backend.read(self._key)
        holder = _decode(blob.data) if blob else None
        if blob and holder and not holder.free and not self._is_dead(holder, blob.tag):
            return holder
        self._owner = replace(self._owner, heartbeat=time.time())
        self._tag = self._backend.swap(self._key, _encode(self._owner), blob.tag if blob else None)
        if self._tag is not None:
            return None
        return self._winner()

    def _winner(self) -> Owner | None:
        """Who stands in the lease after a lost swap; None when it is this run, whose first PUT lost only its answer."""
        blob = self._backend.read(self._key)
        holder = (_decode(blob.data) if blob else None) or replace(self._owner, token="")
        if blob and holder.token == self._owner.token:
            self._tag = blob.tag
            return None
        return holder

    def _is_dead(self, holder: Owner, tag: str) -> bool:
        if holder.host == this_host():
            return is_gone(holder)
        if time.time() - holder.heartbeat < self._dead_after_s:
            return False
        first = self._watched.setdefault(tag, time.monotonic())
        return time.monotonic() - first >= self._watch_s

    def _grace_s(self, holder: Owner) -> float:
        """A silent owner elsewhere is worth one watch, even for a run that does not want to wait."""
        silent = holder.host != this_host() and time.time() - holder.heartbeat >= self._dead_after_s
        return 1.5 * self._watch_s if silent else 0.0

    def _describe(self, holder: Owner) -> str:
        age_s = max(0.0, time.time() - holder.heartbeat)
        return f"{holder} is making {self._fingerprint} in {self._backend.url} (last sign of life {age_s:.0f} s ago)"

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            with self._lock:
                if self._tag is None or self._stop.is_set():
                    return
                try:
                    self._renew()
                except StoreError:
                    # a short outage: the next beat, or confirm(), tells
                    continue

    def _renew(self) -> None:
        owner = replace(self._owner, heartbeat=time.time())
        self._tag = self._backend.swap(self._key, _encode(owner), self._tag)
        if self._tag is None:
            self._winner()


def _encode(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode()


def _decode(data: bytes) -> Owner | None:
    """The owner in a lease; None for anything unreadable, which then counts as free."""
    try:
        return Owner(**json.loads(data))
    except (ValueError, TypeError):
        return None
