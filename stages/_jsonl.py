"""A ledger of JSON lines that survives a kill: appended line by line, and a torn last line never happened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from llavaflow.infra.artifact import Json

_BLOCK_BYTES = 1 << 20


class JsonLines:
    """`with JsonLines(path) as lines: lines.append(row)`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Iterator[Json]:
        if self.path.exists():
            with self.path.open("rb") as stream:
                for line in stream:
                    if line.endswith(b"\n"):
                        yield json.loads(line)

    def __enter__(self) -> JsonLines:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            os.truncate(self.path, _whole_lines(self.path))
        self._stream = self.path.open("ab")
        return self

    def places(self) -> Iterator[tuple[int, Json]]:
        """Every whole line with the byte it starts at, for `read_at`."""
        start = 0
        if self.path.exists():
            with self.path.open("rb") as stream:
                for line in stream:
                    if line.endswith(b"\n"):
                        yield start, json.loads(line)
                    start += len(line)

    def read_at(self, start: int) -> Json:
        """The line that starts at a byte."""
        with self.path.open("rb") as stream:
            stream.seek(start)
            return json.loads(stream.readline())

    def append(self, row: Json, *, durable: bool = False) -> int:
        """Write a line and return where it starts; a durable one survives a power cut when this returns."""
        start = self._stream.tell()
        self._stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
        if durable:
            os.fsync(self._stream.fileno())
        return start

    def __exit__(self, _: type[BaseException] | None, __: object, ___: TracebackType | None) -> None:
        self._stream.close()


def _whole_lines(path: Path) -> int:
    """How many bytes of a file are whole lines; looked for from the end, since a ledger may be large."""
    end = path.stat().st_size
    with path.open("rb") as stream:
        while end:
            start = max(0, end - _BLOCK_BYTES)
            stream.seek(start)
            found = stream.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
