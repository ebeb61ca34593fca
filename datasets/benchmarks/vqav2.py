"""VQAv2: open questions on COCO images, ten human answers each. The test sets are scored on a server.

Source of the rule: GT-Vision-Lab/VQA `vqaEvaluation/vqaEval.py` after LLaVA's `convert_vqav2_for_submission.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import Benchmark, Item, Judge, Options, Pair, Scored, grouped, mean
from llavaflow.datasets.benchmarks._evalai import official, processed
from llavaflow.datasets.benchmarks._join import usual_names
from llavaflow.datasets.benchmarks._vqa import (
    always_normalised,
    official_marks,
    read_vqa,
    score_of,
    vqa_official,
    write_upload,
)


def _read(gold: Path, options: Options) -> list[Item]:
    return read_vqa(gold, options, "v2_mscoco_val2014_annotations.json", "*annotations*.json", "*.json", "*.jsonl")


def mark_vqa(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    """The official rule after LLaVA's processor, the two rules beside it, and the answer types."""
    marks = official_marks(pairs)
    metrics = {
        "official_as_given": score_of(pairs, vqa_official),
        "official_after_processor": score_of(pairs, lambda item, text: vqa_official(item, processed(text))),
        "always_normalised": score_of(pairs, always_normalised(official)),
        "by_type": grouped(pairs, marks, lambda item: item.group),
    }
    return Scored(score=mean(mark.value for mark in marks), marks=marks, metrics=metrics)


def _upload(pairs: Sequence[Pair], out: Path) -> None:
    """All questions of the split; a missing answer goes up as the empty text."""
    ids = ((int(pair.item.id) if pair.item.id.isdecimal() else pair.item.id, pair) for pair in pairs)
    write_upload(({"question_id": id, "answer": processed(pair.text) if pair.answer else ""} for id, pair in ids), out)


BENCHMARK = Benchmark(
    name="vqav2",
    title="VQAv2 (validation offline; test-dev by upload)",
    layout="v2_mscoco_val2014_annotations.json, with v2_OpenEnded_mscoco_val2014_questions.json beside it",
    prompt="{question}\\nAnswer the question using a single word or phrase.",
    rule=(
        "VQA official: mean over ten humans of min(1, matches among the other nine / 3), normalised only where the "
        "humans disagree, on answers run through the EvalAI processor as LLaVA does before upload (a file in upload "
        "form is taken as it is)."
    ),
    source="GT-Vision-Lab/VQA vqaEval.py; LLaVA convert_vqav2_for_submission.py; metrics.always_normalised: lmms-eval",
    column="VQAv2",
    read=_read,
    mark=mark_vqa,
    names=usual_names,
    upload=_upload,
    upload_form="JSON list of {question_id, answer} over all questions of the split; missing answers are ''",
)
