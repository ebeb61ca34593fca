"""Files for evaluation servers: every question of the split is in them, answered or not.

The questions come from the gold where there is one, else from LLaVA's question file of the test split: a server's
test set has no public gold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import Answer, Benchmark, Item, Options
from llavaflow.datasets.benchmarks._files import rows
from llavaflow.datasets.benchmarks._join import join, names_of
from llavaflow.infra.errors import InputError


def write(benchmark: Benchmark, answers: Sequence[Answer], questions: Path | None, options: Options, out: Path) -> int:
    """Write the upload file and return how many missing answers were filled in."""
    if benchmark.upload is None:
        raise InputError(f"{benchmark.name} has no server form: its gold is public, score with --gold.")
    if out.exists():
        raise InputError(f"{out} exists already. Choose another name: nothing is overwritten.")
    if questions is None:
        raise InputError("an upload file holds every question of the split: give --questions FILE (or --gold).")
    items = _questions(questions) if _is_questions(questions) else benchmark.items(questions, options)
    joined = join(
        items, answers, benchmark.names, benchmark=benchmark.name, allow_missing=True, ids_repeat=benchmark.ids_repeat
    )
    if joined.unknown:
        raise InputError(f"{benchmark.name}: {joined.unknown} answers are not among the questions of {questions}.")
    benchmark.upload(joined.pairs, out)
    return sum(pair.answer is None for pair in joined.pairs)


def _is_questions(path: Path) -> bool:
    """Whether a file is a LLaVA question file: records with question_id and text, and no gold in them."""
    return path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")) and _without_gold(path)


def _without_gold(path: Path) -> bool:
    first = rows(path)[:1]
    return bool(first) and "question_id" in first[0] and not {"answer", "answers", "label", "bbox"} & set(first[0])


def _questions(path: Path) -> list[Item]:
    return [
        Item(
            id=str(row["question_id"]),
            gold=None,
            names=names_of(str(row["question_id"]), str(row.get("image", "")), str(row.get("text", ""))),
            text=str(row.get("text", "")),
            image=str(row.get("image", "")),
            group=str(row.get("category", "")),
        )
        for row in rows(path)
    ]
