"""VQAv2: open questions on COCO images, ten human answers each. The test sets are scored on a server.

Source of the rule: GT-Vision-Lab/VQA `vqaEvaluation/vqaEval.py` after LLaVA's `convert_vqav2_for_submission.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import Benchmark, Judge, Mark, Options, Pair, Scored, grouped, mean
from llavaflow.datasets.benchmarks._evalai import flatten, official, processed, soft_score
from llavaflow.datasets.benchmarks._join import usual_names
from llavaflow.datasets.benchmarks._vqa import (
    in_upload_form,
    normal_humans,
    official_value,
    vqa_reader,
    write_upload,
)


def mark_vqa(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    """The official rule on the answer as it is uploaded, the two rules beside it, and the answer types."""
    as_given: list[float] = []
    after: list[float] = []
    always: list[float] = []
    texts = [processed(pair.text) for pair in pairs]
    for pair, text in zip(pairs, texts, strict=True):
        if pair.answer is None:
            for column in (as_given, after, always):
                column.append(0.0)
            continue
        humans, normal = pair.item.gold, normal_humans(pair.item)
        as_given.append(official_value(pair.text, humans, normal))
        after.append(official_value(text, humans, normal))
        always.append(soft_score(official(flatten(pair.text)), normal))
    chosen = as_given if in_upload_form(pairs) else after
    marks = [
        Mark(value=value, read=text if pair.answer else None)
        for value, text, pair in zip(chosen, texts, pairs, strict=True)
    ]
    metrics = {
        "official_as_given": mean(as_given),
        "official_after_processor": mean(after),
        "always_normalised": mean(always),
        "by_type": grouped(pairs, marks, lambda item: item.group),
    }
    return Scored(score=mean(chosen), marks=marks, metrics=metrics)


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
    read=vqa_reader("v2_mscoco_val2014_annotations.json"),
    mark=mark_vqa,
    names=usual_names,
    upload=_upload,
    upload_form="JSON list of {question_id, answer} over all questions of the split; missing answers are ''",
)
