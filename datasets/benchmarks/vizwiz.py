"""VizWiz: questions by blind people about their own photos, ten human answers; `unanswerable` is just an answer.

Source of the rule: lmms-eval `vizwiz_vqa/utils.py` (both sides always normalised, the others found by position).
VQA's own evaluation finds the others by comparing records, and VizWiz's records have no answer ids, so there all
humans with the same answer and confidence drop out together: that lower figure is in the metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import (
    Benchmark,
    Item,
    Mark,
    Metrics,
    Options,
    Pair,
    grouped,
    mean,
    pooled,
    score_of,
)
from llavaflow.datasets.benchmarks._evalai import processed
from llavaflow.datasets.benchmarks._join import usual_names
from llavaflow.datasets.benchmarks._vqa import (
    always_normalised,
    official_by_records,
    read_vqa,
    vqa_official,
    write_upload,
)
from llavaflow.infra.errors import InputError


def _read(gold: Path, options: Options) -> list[Item]:
    return read_vqa(gold, options, "val.json", "*annotations*.json", "*.json", "*.jsonl")


def _metrics(pairs: Sequence[Pair], marks: Sequence[Mark]) -> Metrics:
    return {
        "vqa_official_with_ids": score_of(pairs, vqa_official),
        "vqa_official_without_ids": mean(
            official_by_records(pair.item, pair.text) if pair.answer else 0.0 for pair in pairs
        ),
        "by_type": grouped(pairs, marks, lambda item: item.group),
    }


def _upload(pairs: Sequence[Pair], out: Path) -> None:
    nameless = next((pair.item.id for pair in pairs if not pair.item.image), None)
    if nameless is not None:
        raise InputError(f"vizwiz: question {nameless} has no image name, and the server's file is by image.")
    write_upload(
        ({"image": pair.item.image, "answer": processed(pair.text) if pair.answer else ""} for pair in pairs), out
    )


BENCHMARK = Benchmark(
    name="vizwiz",
    title="VizWiz VQA (validation offline; test by upload)",
    layout="val.json: list of {image, question, answers: [{answer, answer_confidence}], answer_type}; or VQA form",
    prompt=(
        "{question}\\nWhen the provided information is insufficient, respond with 'Unanswerable'.\\n"
        "Answer the question using a single word or phrase."
    ),
    rule="EvalAI processor on both sides always, leave-one-out soft score over ten humans, told apart by position.",
    source="lmms-eval vizwiz_vqa/utils.py; metrics.vqa_official_*: VQA vqaEval.py with and without answer ids",
    column="VizWiz",
    read=_read,
    mark=pooled(always_normalised(processed), _metrics),
    names=usual_names,
    upload=_upload,
    upload_form="JSON list of {image, answer} over all images of the split, answers processed, missing ones ''",
)
