"""Gold, question and answer files as plain rows: JSON, JSON lines, TSV, CSV or parquet, gzipped or not.

`--gold` may be a file or a folder in the layout of the benchmark's authors, so a reader asks for names by pattern and
this module says what lies there when nothing fits. Real files are untidy: lines that end in a comma, a byte order
mark, an empty last line, Python's NaN are read; a broken line is refused with its number.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from llavaflow.infra.errors import InputError

Row = dict[str, Any]
TABLES = {".tsv": "\t", ".csv": ","}


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked when gzipped. Raises InputError with the reason when it cannot be read."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {path}: {reason}. Give an existing, whole file.") from error


def kind_of(path: Path) -> str:
    """The suffix that tells the format, without `.gz`."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def load(path: Path) -> Any:
    """The document of a file: a list of rows for tables and JSON lines, whatever JSON holds otherwise."""
    kind = kind_of(path)
    if kind == ".parquet":
        return _parquet(path)
    data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if kind in TABLES:
        return _table(data, TABLES[kind], path)
    try:
        document = _json(data)
    except ValueError:
        return list(_lines(data, path))
    # a file of JSON lines with one line is an object to a JSON reader
    return [document] if kind == ".jsonl" and isinstance(document, Mapping) else document


def rows(path: Path) -> list[Row]:
    """The rows of a file that must be a list of objects (JSON list, JSON lines, table)."""
    document = load(path)
    listed = [document] if isinstance(document, Mapping) else document
    if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
        raise InputError(f"{path} is not a list of records: expected JSON lines or a JSON list of objects.")
    return listed


def find(gold: Path, *patterns: str, what: str) -> Path:
    """The file itself, or the first file of a folder that fits a pattern (also gzipped, also one folder down)."""
    if not gold.exists():
        raise InputError(f"no such file or folder: {gold}. Give the {what}.")
    if not gold.is_dir():
        return gold
    found = next(find_all(gold, *patterns), None)
    if found is None:
        here = ", ".join(sorted(entry.name for entry in gold.iterdir())[:12]) or "nothing"
        raise InputError(f"no {what} in {gold}: looked for {', '.join(patterns)}; there is {here}.")
    return found


def find_all(folder: Path, *patterns: str) -> Iterator[Path]:
    """All files of a folder that fit, pattern by pattern, plain before gzipped, this folder before its children."""
    for pattern in patterns:
        for name in (pattern, f"{pattern}.gz", f"*/{pattern}", f"*/{pattern}.gz"):
            yield from (path for path in sorted(folder.glob(name)) if path.is_file())


def _lines(data: bytes, path: Path) -> Iterator[Any]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        line = line.strip().rstrip(b",")
        if not line:
            continue
        try:
            yield _json(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number} is not JSON ({error}). Repair or remove the line.") from error


def _json(data: bytes) -> Any:
    """A document. Also read is what Python writes and strict readers refuse: NaN, infinities, half of a cut emoji."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return json.loads(
                data.decode("utf-8"),
                object_pairs_hook=lambda pairs: {_whole(name): _whole(value) for name, value in pairs},
            )
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _whole(value: Any) -> Any:
    """Text that can be written again, with a mark where half a character stood; lists likewise."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value


def _table(data: bytes, delimiter: str, path: Path) -> list[Row]:
    csv.field_size_limit(sys.maxsize)  # MMBench keeps its images in a column
    try:
        text = io.StringIO(data.decode("utf-8"), newline="")
        return list(csv.DictReader(text, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a UTF-8 table: {error}.") from error


def _parquet(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    try:
        names = [column.name for column in pq.read_schema(path) if not _holds_bytes(column.type)]
        table: list[Row] = pq.read_table(path, columns=names).to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as parquet: {error}.") from error
    return table


def _holds_bytes(kind: Any) -> bool:
    """Whether a column is of pictures, bare or in a struct or list: gold has no use for gigabytes of them."""
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_holds_bytes(column.type) for column in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
