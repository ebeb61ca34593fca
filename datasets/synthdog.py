"""SynthDoG-EN: generated documents whose whole text is the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from llavaflow.datasets._raw import find, rows
from llavaflow.datasets._sample import Sample, Turn
from llavaflow.datasets._source import Reading, Source, question, rejected
from llavaflow.datasets._table import read_rows

# our wording: the one used for LLaVA-1.6 is known from memory only
PROMPT = "Read all the text in this image, from top to bottom and from left to right."


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per document."""
    seen: set[str] = set()
    for file in _files(path):
        count = iter(range(1 << 62))

        def build(raw: dict[str, Any], stem: str = file.stem, count: Iterator[int] = count) -> Sample:
            place = next(count)
            name = raw.get("file_name") or f"{stem}-{place:06d}.jpg"
            truth = orjson.loads(raw["ground_truth"])
            text = reading.text(truth["gt_parse"]["text_sequence"])
            parent = f"document/{name}"
            fault = "repeated-id" if name in seen else None if text else "empty-answer"
            seen.add(name)
            if fault:
                return rejected("synthdog", parent, fault)
            return Sample(
                id=name.rpartition(".")[0],
                source="synthdog",
                images=(f"synthdog-en/{name}",),
                turns=(question(PROMPT), Turn(role="gpt", text=text)),
                parents=(f"synthdog:{parent}",),
            )

        yield from reading.each("synthdog", file, _records(file), build)


def _files(path: Path) -> list[Path]:
    parquet = (sorted(path.rglob("train*.parquet")) or sorted(path.rglob("*.parquet"))) if path.is_dir() else []
    return parquet or [find(path, "metadata.jsonl", "train/metadata.jsonl", source="synthdog")]


def _records(file: Path) -> Iterable[Any]:
    """Rows of either layout; the pictures inside a parquet are found by the name that is made here."""
    if file.suffix != ".parquet":
        return rows(file)
    return read_rows(file, ["ground_truth"])


SOURCE = Source(
    name="synthdog",
    title="SynthDoG, English",
    origin=("https://huggingface.co/datasets/naver-clova-ix/synthdog-en",),
    licence="MIT (generator of Donut)",
    layout="""data/train-*.parquet   columns image, ground_truth: {"gt_parse": {"text_sequence": ..}} as text
or metadata.jsonl      {file_name, ground_truth} with the pictures beside it""",
    rule="one sample per document: an instruction to read it, and its whole text",
    read=read,
    images="synthdog-en",
    prompt=PROMPT,
    drops={"empty-answer": "a document without text"},
)
