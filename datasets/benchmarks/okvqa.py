"""OK-VQA: questions that need outside knowledge, ten answers each in VQA format; scored as VQAv2 is."""

from __future__ import annotations

from llavaflow.datasets.benchmarks._benchmark import variant
from llavaflow.datasets.benchmarks._vqa import vqa_reader
from llavaflow.datasets.benchmarks.vqav2 import BENCHMARK as VQAV2

BENCHMARK = variant(
    VQAV2,
    name="okvqa",
    title="OK-VQA validation",
    layout="mscoco_val2014_annotations.json, with OpenEnded_mscoco_val2014_questions.json beside it",
    source="GT-Vision-Lab/VQA vqaEval.py on the field `answer`; metrics.always_normalised: lmms-eval ok_vqa/utils.py",
    column=None,
    read=vqa_reader("mscoco_val2014_annotations.json"),
    upload=None,
    upload_form="",
)
