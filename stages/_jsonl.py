"""A ledger of JSON lines that survives a kill: appended line by line, and a torn last line never happened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from llavaflow.infra.artifact import Json


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
            data = self.path.read_bytes()
            os.truncate(self.path, data.rfind(b"\n") + 1)
        self._stream = self.path.open("ab")
        return self

    def append(self, row: Json, *, durable: bool = False) -> None:
        """Write a line; a durable one is on the disk when this returns, and survives a power cut too."""
        self._stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
        if durable:
            os.fsync(self._stream.fileno())

    def __exit__(self, _: type[BaseException] | None, __: object, ___: TracebackType | None) -> None:
        self._stream.close()
