"""TextVQA: questions about text in the picture, ten human answers; LLaVA's prompt carries Rosetta OCR tokens.

Source of the rule: LLaVA `m4c_evaluator.py: TextVQAAccuracyEvaluator` and `eval_textvqa.py` for the join: the answer
file's question_id is the image id, so an answer belongs to (image id, lower-cased question of the prompt).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import (
    Answer,
    Benchmark,
    Item,
    Mark,
    Metrics,
    Options,
    Pair,
    pooled,
    score_of,
)
from llavaflow.datasets.benchmarks._evalai import HUMANS, processed
from llavaflow.datasets.benchmarks._join import asked, question_of
from llavaflow.datasets.benchmarks._vqa import always_normalised, read_vqa, vqa_official
from llavaflow.infra.errors import InputError

OCR_LINE = "Reference OCR token:"
# LLaVA's older prompt, one line
OCR_FIRST = re.compile(r"OCR tokens: .*?Question: (.*?) Short answer:", re.DOTALL)


def _read(gold: Path, options: Options) -> list[Item]:
    items = read_vqa(gold, options, "TextVQA_0.5.1_val.json", "*annotations*.json", "TextVQA*.json", "*.json")
    short = [item.id for item in items if len(item.gold) != HUMANS]
    if short:
        raise InputError(f"textvqa: {len(short)} questions do not have {HUMANS} human answers (first: {short[0]}).")
    return items


def _question(prompt: str) -> str:
    """The question of a two- or three-line prompt; the OCR line may stand before or after it."""
    if older := OCR_FIRST.match(prompt):
        return question_of(older.group(1))
    lines = [line for line in prompt.removeprefix("<image>\n").split("\n") if not line.startswith(OCR_LINE)]
    return question_of(lines[0] if lines else "")


def _names(answer: Answer) -> Iterator[str]:
    if answer.prompt:
        for image in (answer.id, answer.image):
            yield asked(image, _question(answer.prompt))
    yield answer.id


def _metrics(pairs: Sequence[Pair], marks: Sequence[Mark]) -> Metrics:
    return {
        "vqa_official_as_given": score_of(pairs, vqa_official),
        "vqa_official_after_processor": score_of(pairs, lambda item, text: vqa_official(item, processed(text))),
    }


BENCHMARK = Benchmark(
    name="textvqa",
    title="TextVQA validation",
    layout="TextVQA_0.5.1_val.json ({data: [{image_id, question, answers}]}), or annotations and questions in VQA form",
    prompt="{question}\\nReference OCR token: {tokens}\\nAnswer the question using a single word or phrase.",
    rule="M4C: EvalAI processor on both sides always, leave-one-out soft score over ten humans.",
    source="LLaVA m4c_evaluator.py and eval_textvqa.py (lmms-eval agrees; its default prompt has no OCR tokens)",
    column="TextVQA",
    read=_read,
    mark=pooled(always_normalised(processed), _metrics),
    names=_names,
)
