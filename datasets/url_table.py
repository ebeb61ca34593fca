"""URL tables with alt texts: LAION and COYO parquet, Conceptual Captions TSV, SBU JSON or text.

Rows get the names that img2dataset gives their images (nine digits in folders of 10,000), so that a table read here
and images downloaded from it meet. The parts of a table in a folder are one table, in the order of their names.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llavaflow.datasets._raw import Bad, find, is_lines, lines, load, open_raw
from llavaflow.datasets._sample import Sample, Turn
from llavaflow.datasets._source import ONE_CAPTION, Reading, Source, question, rejected
from llavaflow.datasets._table import column_names, read_rows
from llavaflow.infra.errors import InputError

PER_FOLDER = 10_000
# by preference, in any case; `blip_caption` is LCS-558K's meta file, `top_caption` LAION-COCO
URL_COLUMNS = ("url", "image_url", "img_url", "image_link")
TEXT_COLUMNS = ("text", "caption", "top_caption", "blip_caption", "alt_text", "alt")
FORMS = ("*.parquet", "*.tsv", "*.csv", "*.jsonl", "*.json", "*urls.txt")


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per usable row, in file order; the address stays with the record."""
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

    for file in _parts(path):
        yield from reading.each("urls", file, pairs(file), build)


def _fault(url: Any, text: Any, seen: set[str]) -> str | None:
    if not isinstance(url, str):
        return "bad-url"
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return "bad-url"
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return "bad-url"
    if not isinstance(text, str) or not text.strip():
        return "empty-caption"
    return "repeated-url" if url.strip() in seen else None


def _parts(path: Path) -> list[Path]:
    """The table: a file, or all files of the first form that a folder has."""
    if path.is_dir():
        for form in FORMS:
            if parts := sorted([*path.glob(form), *path.glob(f"{form}.gz")]):
                return parts
    return [find(path, *FORMS, source="url-table")]


def pairs(file: Path) -> Iterator[Any]:
    """(address, text) of every row, whatever the format; what is no row of it comes as it is."""
    if file.suffix == ".parquet":
        yield from _parquet(file)
    elif file.name.removesuffix(".gz").endswith(".txt"):
        yield from _line_by_line(file)
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


def _line_by_line(file: Path) -> Iterator[tuple[str, str]]:
    """The other form of SBU: the captions stand line by line in a file of their own."""
    texts = file.with_name(file.name.replace("urls", "captions"))
    if texts == file or not texts.exists():
        raise InputError(f"{file} holds addresses only; their texts are expected in {texts.name} beside it.")
    with open_raw(file) as urls, open_raw(texts) as captions:
        for place, (url, text) in enumerate(zip_longest(urls, captions), 1):
            if url is None or text is None:
                raise InputError(f"{file.name} and {texts.name} differ in length from line {place} on.")
            yield url.decode("utf-8", "replace"), text.decode("utf-8", "replace")


def _pair(row: Mapping[str, Any]) -> tuple[Any, Any]:
    url, text = _column(row, URL_COLUMNS), _column(row, TEXT_COLUMNS)
    return row.get(url) if url else None, row.get(text) if text else None


def _column(there: Iterable[str], names: tuple[str, ...]) -> str | None:
    """Which of the columns that are there is meant; None when none is."""
    plain = {name.strip().lower(): name for name in reversed(list(there)) if isinstance(name, str)}
    return next((plain[name] for name in names if name in plain), None)


def _parquet(file: Path) -> Iterator[tuple[Any, Any]]:
    there = column_names(file)
    url, text = _column(there, URL_COLUMNS), _column(there, TEXT_COLUMNS)
    if url is None or text is None:
        raise InputError(f"{file} has no address or no text column (it has {', '.join(there)}).")
    yield from ((row[url], row[text]) for row in read_rows(file, [url, text], batch=10_000))


def _separated(file: Path) -> Iterator[Any]:
    """TSV or CSV, with a header or, like Conceptual Captions, without: then the address is known by its scheme."""
    with open_raw(file) as data, io.TextIOWrapper(data, encoding="utf-8-sig", errors="replace", newline="") as stream:
        tab = file.name.removesuffix(".gz").endswith(".tsv")
        form: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tab else {}
        columns: list[int | None] = []
        for place, row in enumerate(_lines_of(csv.reader(stream, **form))):
            if isinstance(row, Bad):
                yield row
            elif place == 0 and _column(row, URL_COLUMNS):
                named = [_column(row, names) for names in (URL_COLUMNS, TEXT_COLUMNS)]
                columns = [None if name is None else row.index(name) for name in named]
            elif columns and row:
                url, text = (row[at] if at is not None and at < len(row) else None for at in columns)
                yield url, text
            elif row:
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
    layout="""*.parquet         columns URL and TEXT (any case; also caption, top_caption, blip_caption)
*.tsv             Conceptual Captions: caption and address, or address and caption, without a header
*.csv, *.jsonl    with named columns
*.json            SBU: {"image_urls": [..], "captions": [..]}, or a list of records
*urls.txt         SBU: an address per line, and *captions.txt beside it
a folder of the parts of one table""",
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
