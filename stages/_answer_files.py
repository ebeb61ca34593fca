"""The answers of an evaluation as files: LLaVA's answer lines with marks, and the index that leads each back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from llavaflow.datasets._index import IndexWriter, read_index, sha256_bytes
from llavaflow.datasets.benchmarks._benchmark import Answer, Result
from llavaflow.infra.fingerprint import digest
from llavaflow.stages._exam import IMAGES, QUESTIONS, Variant

Results = Mapping[str, Mapping[Variant, Result]]


def write_answers(out: Path, results: Results, *, world: Path, source: str, model: str) -> None:
    """answers/<bench>.jsonl, `.blank` and `.shuffled` beside it, and index.parquet.

    world: the folder with the questions; source: its fingerprint, the first part of a parent's name.
    """
    ids = _record_ids(world)
    (out / "answers").mkdir()
    with IndexWriter(out) as index:
        for name, found in results.items():
            for variant, result in found.items():
                file = f"answers/{name}.jsonl" if variant == "images" else f"answers/{name}.{variant}.jsonl"
                lines = [line.encode() for line in _lines(result, variant, model)]
                (out / file).write_bytes(b"".join(line + b"\n" for line in lines))
                for row, (line, pair) in enumerate(zip(lines, result.pairs, strict=True)):
                    assert pair.answer is not None, "an evaluation answers every question"
                    parents = [f"{source}:{id}" for id in _parents(pair.answer, name, ids)]
                    id = f"{name}/{variant}/{pair.answer.row['row']}"
                    index.add(id, source=name, sha256=sha256_bytes(line), file=file, row=row, parents=parents)


def _record_ids(world: Path) -> dict[tuple[str, int], str]:
    """The ids of the questions artifact's records by file and row."""
    table = read_index(world, ["id", "file", "row"]).to_pydict()
    places = zip(table["file"], table["row"], table["id"], strict=True)
    return {(file, row): id for file, row, id in places if file.startswith("eval/")}


def _parents(answer: Answer, benchmark: str, ids: Mapping[tuple[str, int], str]) -> Iterator[str]:
    """The records of an answer's question and picture."""
    for place in ((f"eval/{benchmark}/{QUESTIONS}", answer.row["row"]), (f"{IMAGES}/{answer.image}", 0)):
        if place in ids:
            yield ids[place]


def _lines(result: Result, variant: Variant, model: str) -> Iterator[str]:
    for pair, mark in zip(result.pairs, result.marks, strict=True):
        answer = pair.answer
        assert answer is not None, "an evaluation answers every question"
        yield json.dumps(
            {
                "question_id": answer.id, "prompt": answer.prompt, "text": answer.text,
                "answer_id": digest([result.benchmark, variant, answer.row["row"], answer.text]), "model_id": model,
                "metadata": {"mark": mark.value, "read": mark.read, "image": answer.image, "category": answer.group},
            },
            ensure_ascii=False,
        )  # fmt: skip
