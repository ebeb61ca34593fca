"""Takedown: drops what its owners asked to have removed, by address, by host or by the bytes of the image.

    https://example.org/photos/17.jpg      this address
    host:example.org                       everything on this host and on its subdomains
    sha256:9f86d081884c7d65...             these bytes, wherever they came from

The list is an outside file and counts by content: one more line makes the filter and all that follows it stale, which
`pipeline plan` shows with its cost, and the next run measures nothing again. What saw the image before is told by
`pipeline trace --url` (or `--image`), down to the checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from llavaflow.infra.artifact import Json
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError
from llavaflow.stages._pairs import Pair
from llavaflow.stages.filters._record_filter import Measured, RecordFilter

_FORMS = {
    "urls": re.compile(r"https?://\S+"),
    "hosts": re.compile(r"host:[\w.-]+"),
    "digests": re.compile(r"sha256:[0-9a-fA-F]{64}"),
}


@dataclass(frozen=True, kw_only=True)
class Takedown(RecordFilter):
    """`file` has one request per line in a form above; empty lines and those that begin with # do not count."""

    name: ClassVar[str] = "takedown"

    file: Path

    def prepare(self, ctx: RunContext) -> Mapping[str, Json]:
        # a line that cannot be read must stop the run before hours of measuring, not after
        requests(self.file)
        return {}

    def choose(self, records: Iterable[Measured]) -> Iterator[tuple[str, str]]:
        asked = requests(self.file)
        for record in records:
            if asked.cover(record.pair):
                yield record.pair.id, "taken-down"


@dataclass(frozen=True, kw_only=True)
class Requests:
    """The lines of a list, by form; hosts in lower case, digests in hexadecimal."""

    urls: frozenset[str]
    hosts: frozenset[str]
    digests: frozenset[str]

    def cover(self, pair: Pair) -> bool:
        """Whether one of them means this pair."""
        if pair.sha256 in self.digests or pair.url in self.urls:
            return True
        return bool(self.hosts and pair.url and any(host in self.hosts for host in _hosts(pair.url)))


def requests(file: Path) -> Requests:
    """The requests of a list. Raises InputError, with the line, for one that has none of the three forms."""
    found: dict[str, set[str]] = {form: set() for form in _FORMS}
    for number, line in enumerate(file.expanduser().read_text("utf-8-sig").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        form = next((form for form, shape in _FORMS.items() if shape.fullmatch(text)), None)
        if form is None:
            raise InputError(f"{file}, line {number}: '{text}' is no address, host:NAME or sha256:DIGEST (64 digits).")
        found[form].add(text if form == "urls" else text.partition(":")[2].lower())
    return Requests(**{form: frozenset(values) for form, values in found.items()})


def _hosts(url: str) -> Iterator[str]:
    """The host of an address and the domains above it."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    while host:
        yield host
        host = host.partition(".")[2]
