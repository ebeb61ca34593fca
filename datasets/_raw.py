"""Raw files: found in the layout of their authors, plain or gzipped, and streamed one record at a time.

The large annotation files are one JSON document of a gigabyte; parsed whole they need several times that in memory.
`elements` reads them in chunks, cuts each chunk after its last complete record and gives orjson everything before the
cut. The cut is guessed from bracket counts (one pass in C) and proved by the parse: text between two record
boundaries is the only kind that parses. Where a guess fails, because strings hold brackets, a slow exact scan decides.

A record that is not JSON comes out as `Bad` with its line, so that the reader can stop there or set it aside.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import orjson

from llavaflow.infra.errors import InputError

CHUNK_BYTES = 4 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
# opening brackets as 1, closing ones as -1, commas as 0: signed bytes
_STEPS = bytes.maketrans(b"[{]},", b"\x01\x01\xff\xff\x00")
_STRUCTURE = re.compile(rb"[\[\]{},]")
# a text that runs past the end of the buffer is one token too: what it holds is no structure
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_TAIL_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that cannot be parsed: the line it starts on and why."""

    line: int
    reason: str


def find(path: Path, *patterns: str, source: str) -> Path:
    """The one file that a reader needs: `path` itself when it is a file, else the first pattern with a match.

    Patterns are tried in order, each also with `.gz`. Raises InputError naming what was looked for and what is there.
    """
    if path.is_file():
        return path
    found = search(path, *patterns, source=source)
    if found is None:
        there = sorted(entry.name for entry in path.iterdir())[:12]
        raise InputError(
            f"no {patterns[0]} in {path} (tried {', '.join(patterns)}, each also with .gz; there is: "
            f"{', '.join(there) or 'nothing'}). `pipeline show source:{source}` prints the layout."
        )
    return found


def search(path: Path, *patterns: str, source: str) -> Path | None:
    """Like `find` in a folder, but None when nothing matches. Raises InputError when one pattern fits several files."""
    if not path.exists():
        raise InputError(f"{path} does not exist. Give the file or folder that holds the raw files of {source}.")
    folder = path if path.is_dir() else path.parent
    for pattern in patterns:
        found = sorted({*folder.glob(pattern), *folder.glob(f"{pattern}.gz")})
        if len(found) > 1:
            names = ", ".join(entry.name for entry in found)
            raise InputError(f"{pattern} fits several files in {folder}: {names}. Give the path of one of them.")
        if found:
            return found[0]
    return None


@contextmanager
def open_raw(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a plain or gzipped file. Raises InputError when it cannot be read to its end."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb", _BUFFER_BYTES) as stream:
            yield cast(IO[bytes], stream)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {error}. Fetch it again if it is cut off.") from error


def is_lines(path: Path) -> bool:
    """Whether a file holds one JSON record per line (by its name, or else by its first line)."""
    name = path.name.removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        return True
    with open_raw(path) as stream:
        first = stream.read(CHUNK_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    line = first.split(b"\n", 1)[0]
    return first.startswith(b"{") and b"\n" in first and _parses(line) and not _parses(first)


def rows(path: Path, key: str = "") -> Iterator[Any]:
    """Every record of a JSON lines file or of a JSON list (a mapping gives `(key, value)` pairs)."""
    return lines(path) if is_lines(path) else elements(path, key)


def lines(path: Path) -> Iterator[Any]:
    """The records of a JSON lines file; blank lines do not count. Raises InputError when there is no other line."""
    found = False
    with open_raw(path) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                if not line.strip():
                    continue
                yield Bad(number, f"not JSON: {error}")
            found = True
    if not found:
        raise InputError(f"{path} is empty: it holds no record.")


def elements(path: Path, key: str = "") -> Iterator[Any]:
    """The elements of a JSON list, or the items of a JSON mapping as `(key, value)`.

    With `key`, the first list or mapping under that key; without, the document itself.
    """
    with open_raw(path) as stream:
        buffer, line = _start(path, stream, key)
        found = _Stream(path, stream, buffer[:1] == b"{", buffer[1:], line)
        yield from found.records()
        rest = b"" if key else found.buffer + stream.read(_TAIL_BYTES)
        if text := rest.lstrip():
            line = found.line + rest.count(b"\n", 0, len(rest) - len(text))
            yield Bad(line, "something stands behind the end of the list or mapping")


def load(path: Path) -> Any:
    """A whole JSON document; for the small files."""
    with open_raw(path) as stream:
        try:
            return orjson.loads(stream.read().removeprefix(BYTE_ORDER_MARK))
        except orjson.JSONDecodeError as error:
            raise InputError(f"{path}, line {error.lineno}: not JSON: {error.msg}.") from error


def _start(path: Path, stream: IO[bytes], key: str) -> tuple[bytes, int]:
    """What has been read from the opening bracket of the wanted list or mapping on, and the line it is on."""
    wanted = re.compile(b'"' + re.escape(key.encode()) + rb'"\s*:\s*(?=[\[{])') if key else re.compile(rb"(?=[\[{])")
    buffer = stream.read(CHUNK_BYTES).removeprefix(BYTE_ORDER_MARK)
    passed = 0
    while True:
        match = wanted.search(buffer)
        if match:
            return buffer[match.end() :], passed + buffer.count(b"\n", 0, match.end()) + 1
        more = stream.read(CHUNK_BYTES)
        if not more:
            what = f"list or mapping under '{key}'" if key else "JSON list or mapping"
            raise InputError(f"there is no {what} in {path}.")
        keep = buffer[-256:]
        passed += buffer.count(b"\n", 0, len(buffer) - len(keep))
        buffer = keep + more


class _Stream:
    """One pass over the elements between two brackets."""

    def __init__(self, path: Path, stream: IO[bytes], pairs: bool, buffer: bytes, line: int) -> None:
        self.path = path
        self.stream = stream
        self.pairs = pairs
        self.buffer = buffer
        self.line = line

    def records(self) -> Iterator[Any]:
        ended = False
        while not ended:
            cut = _guess(self.buffer)
            parsed = self._parse(self.buffer[:cut]) if cut > 0 else None
            if parsed is not None and not (self.pairs and len(parsed) != _count(self.buffer[:cut])):
                yield from parsed
                self._advance(cut + 1)
            elif cut or len(self.buffer) > 2 * CHUNK_BYTES:
                ended = yield from self._exactly()
            data = b"" if ended else self.stream.read(CHUNK_BYTES)
            if not ended and not data:
                yield from self._rest()
                return
            self.buffer += data

    def _rest(self) -> Iterator[Any]:
        ended = yield from self._exactly()
        if not ended:
            self.buffer = b""
            yield Bad(self.line, "the file ends inside a record")

    def _exactly(self) -> Generator[Any, None, bool]:
        """Yield the complete elements of the buffer by a scan that knows strings; True when the bracket closed."""
        depth, start = 0, 0
        for token in _TOKENS.finditer(self.buffer):
            mark = token.group()
            if mark in (b"[", b"{"):
                depth += 1
            elif mark in (b"]", b"}"):
                depth -= 1
            if depth < 0 or (depth == 0 and mark == b","):
                yield from self._piece(self.buffer[start : token.start()])
                start = token.end()
                if depth < 0:
                    self._advance(start, count=False)
                    return True
        self._advance(start, count=False)
        return False

    def _piece(self, piece: bytes) -> Iterator[Any]:
        """One element. Lines are counted here, so that a bad one is reported where it is."""
        if piece.strip():
            parsed = self._parse(piece)
            if parsed is None:
                line = self.line + piece[: len(piece) - len(piece.lstrip())].count(b"\n")
                parsed = [Bad(line, f"not JSON: {self._reason(piece)}")]
            yield from parsed
        self.line += piece.count(b"\n")

    def _advance(self, to: int, *, count: bool = True) -> None:
        if count:
            self.line += self.buffer.count(b"\n", 0, to)
        self.buffer = self.buffer[to:]

    def _parse(self, piece: bytes) -> list[Any] | None:
        try:
            if self.pairs:
                return list(orjson.loads(b"{" + piece + b"}").items())
            parsed: list[Any] = orjson.loads(b"[" + piece + b"]")
            return parsed
        except orjson.JSONDecodeError:
            return None

    def _reason(self, piece: bytes) -> str:
        try:
            orjson.loads(b"{" + piece + b"}" if self.pairs else piece)
        except orjson.JSONDecodeError as error:
            return error.msg
        return "not one record"


def _count(piece: bytes) -> int:
    """How many elements a piece has by its commas outside all brackets: a parsed mapping hides repeated keys.

    Wrong where strings hold brackets, as the guess is; the exact scan decides there too.
    """
    import numpy as np

    marks = np.frombuffer(piece.translate(_STEPS, _NO_STRUCTURE), np.int8)
    depth = np.cumsum(marks, dtype=np.int32)
    return int(np.count_nonzero((marks == 0) & (depth == 0))) + 1


def _guess(buffer: bytes) -> int:
    """Where the last complete element probably ends: a comma outside all brackets. 0 when none is in sight."""
    brackets = buffer.translate(None, _NO_BRACKETS)
    depth = brackets.count(b"[") + brackets.count(b"{") - brackets.count(b"]") - brackets.count(b"}")
    tail = _TAIL_BYTES
    while True:
        found = _cut_in(buffer[-tail:], depth)
        if found is not None:
            return max(len(buffer) - tail, 0) + found
        if tail >= len(buffer):
            return 0
        tail *= 8


def _cut_in(tail: bytes, depth: int) -> int | None:
    for match in reversed(list(_STRUCTURE.finditer(tail))):
        mark = match.group()
        if mark in b"]}":
            depth += 1
        elif mark in b"[{":
            depth -= 1
        elif depth == 0:
            return match.start()
    return None


def _parses(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
