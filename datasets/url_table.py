"""URL tables with alt texts: LAION and COYO parquet, Conceptual Captions TSV, SBU JSON.

Rows get the names that img2dataset gives their images (nine digits in folders of 10,000), so that a table read here
and images downloaded from it meet.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llavaflow.datasets._raw import Bad, find, is_lines, lines, load, open_raw
from llavaflow.datasets._sample import Sample, Turn
from llavaflow.datasets._source import ONE_CAPTION, Reading, Source, question, rejected
from llavaflow.datasets._table import column_names, read_rows
from llavaflow.infra.errors import InputError

PER_FOLDER = 10_000
URL_COLUMNS = ("URL", "url", "image_url")
TEXT_COLUMNS = ("TEXT", "text", "caption", "top_caption", "alt_text")


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per usable row, in file order; the address stays with the record."""
    file = find(path, "*.parquet", "*.tsv", "*.csv", "*.jsonl", "*.json", source="url-table")
    seen: set[str] = set()
    count = iter(range(1 << 62))

    def build(row: tuple[Any, Any]) -> Sample:
        number = next(count)
        url, text = row
        parent = f"row/{number}"
        fault = _fault(url, text, seen)
        if fault:
            return rejected("urls", parent, fault)
        seen.add(url.strip())
        return Sample(
            id=f"{number:09d}",
            source="url-table",
            images=(f"{number // PER_FOLDER:05d}/{number:09d}.jpg",),
            turns=(question(ONE_CAPTION), Turn(role="gpt", text=reading.text(text))),
            parents=(f"urls:{parent}",),
            extra={"url": url.strip()},
        )

    yield from reading.each("urls", file, _rows(file), build)


def _fault(url: Any, text: Any, seen: set[str]) -> str | None:
    if not isinstance(url, str):
        return "bad-url"
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return "bad-url"
    if not isinstance(text, str) or not text.strip():
        return "empty-caption"
    return "repeated-url" if url.strip() in seen else None


def _rows(file: Path) -> Iterator[Any]:
    """(address, text) of every row, whatever the format; what is no row of it comes as it is."""
    if file.suffix == ".parquet":
        yield from _parquet(file)
    elif file.name.removesuffix(".gz").endswith((".tsv", ".csv")):
        yield from _separated(file)
    elif is_lines(file):
        yield from (row if not isinstance(row, Mapping) else _pair(row) for row in lines(file))
    elif isinstance(document := load(file), Mapping):
        yield from _side_by_side(file, document)
    else:
        yield from (row if not isinstance(row, Mapping) else _pair(row) for row in document)


def _side_by_side(file: Path, document: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The form of SBU: a list of addresses and a list of captions."""
    urls, texts = document.get("image_urls"), document.get("captions")
    if not isinstance(urls, list) or not isinstance(texts, list) or len(urls) != len(texts):
        raise InputError(f"{file} has no two lists of one length, image_urls and captions.")
    yield from zip(urls, texts, strict=True)


def _pair(row: Mapping[str, Any]) -> tuple[Any, Any]:
    return _one(row, URL_COLUMNS), _one(row, TEXT_COLUMNS)


def _one(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if name in row), None)


def _parquet(file: Path) -> Iterator[tuple[Any, Any]]:
    there = column_names(file)
    url, text = (next((name for name in names if name in there), None) for names in (URL_COLUMNS, TEXT_COLUMNS))
    if url is None or text is None:
        raise InputError(f"{file} has no address or no text column (it has {', '.join(there)}).")
    yield from ((row[url], row[text]) for row in read_rows(file, [url, text], batch=10_000))


def _separated(file: Path) -> Iterator[Any]:
    """TSV or CSV, with a header or, like Conceptual Captions, without: then the address is known by its scheme."""
    with open_raw(file) as data, io.TextIOWrapper(data, encoding="utf-8", errors="replace", newline="") as stream:
        tab = file.name.removesuffix(".gz").endswith(".tsv")
        form: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tab else {}
        header: list[str] | None = None
        for place, row in enumerate(_lines_of(csv.reader(stream, **form))):
            if isinstance(row, Bad):
                yield row
            elif place == 0 and any(name in row for name in URL_COLUMNS):
                header = row
            elif header is not None:
                yield _pair(dict(zip(header, row, strict=False)))
            else:
                first, second = (*row, "", "")[:2]
                yield (second, first) if "://" in second else (first, second)


def _lines_of(reader: Any) -> Iterator[Any]:
    """The rows of a CSV reader; one that it cannot read (a field of megabytes, say) comes as Bad."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Bad(reader.line_num, str(error))


SOURCE = Source(
    name="url-table",
    title="Tables of image addresses and alt texts (LAION, COYO, Conceptual Captions, SBU)",
    origin=(
        "https://laion.ai", "https://ai.google.com/research/ConceptualCaptions", "https://www.cs.rice.edu/~vo9/sbucaptions/",
    ),  # fmt: skip
    licence="tables: CC BY 4.0 (LAION), free use (Conceptual Captions); the images belong to their owners",
    layout="""*.parquet         columns URL and TEXT (any case; also caption, top_caption)
*.tsv             Conceptual Captions: caption and address, or address and caption, without a header
*.csv, *.jsonl    with named columns
*.json            SBU: {"image_urls": [..], "captions": [..]}, or a list of records""",
    rule="one sample per row with an http(s) address and a text; images named as img2dataset names them",
    read=read,
    expected={"Conceptual Captions 3M": 3_318_333, "SBU": 1_000_000},
    prompt=ONE_CAPTION,
    drops={
        "bad-url": "not an http or https address",
        "empty-caption": "no text",
        "repeated-url": "an earlier row has the same address",
    },
)
