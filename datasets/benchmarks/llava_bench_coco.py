"""LLaVA-Bench (COCO): LLaVA v1's 90 questions on 30 images (conversation, detail, complex), reviewed by a judge.

Source of the rule: LLaVA `eval_gpt_review_visual.py`; the context is five captions and the boxes of the objects.
"""

from __future__ import annotations

from llavaflow.datasets.benchmarks._benchmark import variant
from llavaflow.datasets.benchmarks._files import Row
from llavaflow.datasets.benchmarks.llava_bench_wild import BENCHMARK as WILD
from llavaflow.datasets.benchmarks.llava_bench_wild import marker, reader


def _captions_and_boxes(row: Row) -> str:
    boxes = "\n".join(f"{instance['category']}: {instance['bbox']}" for instance in row["instances"])
    return "\n".join(row["captions"]) + f"\n\n{boxes}"


BENCHMARK = variant(
    WILD,
    name="llava-bench-coco",
    title="LLaVA-Bench (COCO): LLaVA v1's conversation, detail and complex review",
    layout="a folder with qa90_questions.jsonl, qa90_gpt4_answer.jsonl and caps_boxes_coco2014_val_80.jsonl",
    source="LLaVA eval_gpt_review_visual.py and summarize_gpt_review.py",
    column="Bench-All",
    read=reader(
        _captions_and_boxes,
        ("qa90_questions.jsonl", "*questions*.jsonl"),
        ("qa90_gpt4_answer.jsonl", "*gpt4*.jsonl"),
        ("caps_boxes*.jsonl", "context*.jsonl"),
    ),
    mark=marker("coco"),
)
