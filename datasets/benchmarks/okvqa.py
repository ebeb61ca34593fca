"""OK-VQA: questions that need outside knowledge, ten answers each in VQA format; scored as VQAv2 is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llavaflow.datasets.benchmarks._benchmark import Judge, Options, Pair, Scored, score_of, variant
from llavaflow.datasets.benchmarks._evalai import processed
from llavaflow.datasets.benchmarks._vqa import always_normalised, vqa_reader
from llavaflow.datasets.benchmarks.vqav2 import BENCHMARK as VQAV2
from llavaflow.datasets.benchmarks.vqav2 import mark_vqa


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    scored = mark_vqa(pairs, options, judge)
    # lmms-eval runs the whole processor over both sides here, and only its last steps for VQAv2
    theirs = score_of(pairs, always_normalised(processed))
    return replace(scored, metrics={**scored.metrics, "lmms_eval_exact_match": theirs})


BENCHMARK = variant(
    VQAV2,
    name="okvqa",
    title="OK-VQA validation",
    layout="mscoco_val2014_annotations.json, with OpenEnded_mscoco_val2014_questions.json beside it",
    source=(
        "GT-Vision-Lab/VQA vqaEval.py on the field `answer`; metrics.lmms_eval_exact_match: lmms-eval ok_vqa/utils.py"
    ),
    column=None,
    read=vqa_reader("mscoco_val2014_annotations.json"),
    mark=_mark,
    upload=None,
    upload_form="",
)
