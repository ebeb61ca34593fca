"""Tiny answer and gold files in the official formats, and a scorer that goes the way of `pipeline score`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets.benchmarks._answers import read_answers, with_questions
from llavaflow.datasets.benchmarks._benchmark import Options, Result, load_benchmark

Write = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a JSON document or, for names in `.jsonl`, JSON lines; text goes as it is."""

    def body(name: str, content: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, str):
            lines = "".join(json.dumps(row) + "\n" for row in content) if name.endswith(".jsonl") else ""
            content = lines or json.dumps(content)
        path.write_text(content, encoding="utf-8")
        return path

    return body


def score(name: str, answers: Path, gold: Path, judge: Any = None, **options: Any) -> Result:
    chosen = Options(**options)
    return load_benchmark(name).score(with_questions(read_answers(answers), chosen.questions), gold, chosen, judge)


def llava(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """LLaVA's answer lines from question_id, prompt and text."""
    return [{"answer_id": str(place), "model_id": "m", "metadata": {}, **row} for place, row in enumerate(rows)]


SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
# replies that try to trip a parser
TRICKY = ("", "No, but yes", "yes" * 40_000, "E", "Z", "[0.1, 0.2, 0.3]", "[1, 2, 3, 4, 5]", "١٢", "１２", "\x00\n\t")
