"""Files for evaluation servers: every question of the split is in them, answered or not.

The questions come from the gold where there is one, else from the question file of the test split, the authors' or
LLaVA's: a server's test set has no public gold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import Answer, Benchmark, Item, Options
from llavaflow.datasets.benchmarks._files import kind_of, load
from llavaflow.datasets.benchmarks._join import join, names_of
from llavaflow.infra.errors import InputError

GOLD = {"answer", "answers", "label", "bbox", "gt_answer"}


def write(benchmark: Benchmark, answers: Sequence[Answer], questions: Path | None, options: Options, out: Path) -> int:
    """Write the upload file and return how many missing answers were filled in."""
    if benchmark.upload is None:
        raise InputError(f"{benchmark.name} has no server form: its gold is public, score with --gold.")
    if out.exists():
        raise InputError(f"{out} exists already. Choose another name: nothing is overwritten.")
    if questions is None:
        raise InputError("an upload file holds every question of the split: give --questions FILE (or --gold).")
    items = _questions(questions) or benchmark.items(questions, options)
    joined = join(
        items, answers, benchmark.names, benchmark=benchmark.name, allow_missing=True, ids_repeat=benchmark.ids_repeat
    )
    if joined.unknown:
        raise InputError(f"{benchmark.name}: {joined.unknown} answers are not among the questions of {questions}.")
    try:
        benchmark.upload(joined.pairs, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}. Choose another place.") from error
    return sum(pair.answer is None for pair in joined.pairs)


def _questions(path: Path) -> list[Item]:
    """The questions of a file that holds no gold, nothing for any other: LLaVA's question lines, VQA's question file,
    VizWiz's test list."""
    if not path.is_file() or kind_of(path) not in (".json", ".jsonl"):
        return []
    document = load(path)
    listed = document.get("questions") if isinstance(document, Mapping) else document
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], Mapping):
        return []
    known = set(listed[0])
    if GOLD & known or not {"question_id", "image"} & known:
        return []
    return [_question(number, row) for number, row in enumerate(listed)]


def _question(number: int, row: Mapping[str, object]) -> Item:
    """VizWiz numbers its questions by their place, in every split from 0."""
    id, image = str(row.get("question_id", number)), str(row.get("image") or row.get("image_id") or "")
    text = str(row.get("text") or row.get("question") or "")
    names = names_of(id, image, text)
    return Item(id=id, gold=None, names=names, text=text, image=image, group=str(row.get("category") or ""))
