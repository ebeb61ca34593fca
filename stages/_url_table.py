"""URL tables: parquet, CSV, TSV, JSON or plain text in; one entry per distinct URL out, under a stable id.

The id is the digest of the URL, so a URL keeps its id when the table grows or changes its order, and a refresh can
tell what is new. Sorting by it also mixes the hosts, which keeps a download from hammering one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llavaflow.infra.errors import InputError

READERS = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".txt")
ID_DIGITS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One row of the table: a URL, the text that came with it, and its row number."""

    id: str
    url: str
    caption: str
    row: int


def url_id(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:ID_DIGITS]


def read_urls(path: Path, url_column: str, caption_column: str | None) -> tuple[list[Entry], list[Entry]]:
    """The first entry of every distinct URL, sorted by id, and the entries that repeat one."""
    table = _read(path, url_column, caption_column)
    for column in filter(None, (url_column, caption_column)):
        if column not in table.column_names:
            names = ", ".join(table.column_names)
            raise InputError(f"no column '{column}' in {path}. It has {names}: set url_column and caption_column.")
        if table.column_names.count(column) > 1:
            raise InputError(f"{path} has more than one column '{column}'. Rename the ones that are not meant.")
    urls = table.column(url_column).to_pylist()
    captions = table.column(caption_column).to_pylist() if caption_column else [""] * len(urls)
    first: dict[str, Entry] = {}
    repeated: list[Entry] = []
    for row, (url, caption) in enumerate(zip(urls, captions, strict=True)):
        url = _text(url)
        entry = Entry(id=url_id(url), url=url, caption=_text(caption), row=row)
        if first.setdefault(entry.id, entry) is not entry:
            repeated.append(entry)
    return sorted(first.values(), key=lambda entry: entry.id), repeated


def _text(value: Any) -> str:
    """A cell without white space at its edges; a column of nothing but years has numbers in it."""
    return "" if value is None else str(value).strip()


def parents_by_row(root: Path, fingerprint: str, file: str) -> Mapping[int, str]:
    """For a table inside an artifact: the index ids of its rows, as parents of what is made from them."""
    from llavaflow.datasets._index import NAME, read_index

    if not (root / NAME).exists():
        return {}
    rows = read_index(root, ["id", "file", "row"]).to_pylist()
    return {row["row"]: f"{fingerprint}:{row['id']}" for row in rows if row["file"] == file}


def _read(path: Path, url_column: str, caption_column: str | None) -> Any:
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    from llavaflow.datasets.url_table import pairs

    if not path.is_file() or path.suffix not in READERS:
        raise InputError(f"no URL table at {path}. Give an existing file that ends in {', '.join(READERS)}.")
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        if path.suffix == ".jsonl":
            return pyarrow.json.read_json(path)
        if path.suffix == ".txt":
            return pyarrow.table({"url": path.read_text("utf-8-sig").split()})
        if path.suffix == ".json" or _has_no_header(path):
            # the tables of SBU and Conceptual Captions name no columns
            rows = list(pairs(path))
            if not rows or not all(isinstance(row, tuple) for row in rows):
                raise InputError(f"{path} is no table of addresses and texts. See `pipeline show source:url-table`.")
            urls, texts = zip(*rows, strict=True)
            return pyarrow.table({url_column: urls} | ({caption_column: texts} if caption_column else {}))
        # tabs need no quotes around a text: there, one is a character of it and may stand alone (a 5" screen)
        tabs = {"delimiter": "\t", "quote_char": False} if path.suffix == ".tsv" else {}
        columns = dict.fromkeys(filter(None, (url_column, caption_column)), pyarrow.string())
        return pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(**tabs),
            convert_options=pyarrow.csv.ConvertOptions(column_types=columns),
        )
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the URL table {path}: {error}") from error


def _has_no_header(path: Path) -> bool:
    """Whether a separated table starts with an address instead of the names of its columns."""
    with path.open("rb") as stream:
        return b"://" in stream.readline()
