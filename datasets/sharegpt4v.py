"""ShareGPT4V: long captions by GPT-4V and ShareCaptioner, as LLaVA JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import Reading
from llavaflow.datasets.llava_json import SOURCE as LLAVA_JSON
from llavaflow.datasets.llava_json import records


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per caption, in file order."""
    yield from records(path, reading, source="sharegpt4v")


SOURCE = replace(
    LLAVA_JSON,
    name="sharegpt4v",
    title="ShareGPT4V captions",
    origin=("https://huggingface.co/datasets/Lin-Chen/ShareGPT4V",),
    licence="CC BY-NC 4.0, with the terms of GPT-4V's provider",
    layout="""sharegpt4v_instruct_gpt4-vision_cap100k.json   LLaVA JSON, 102K captions by GPT-4V
share-captioner_coco_lcs_sam_1246k_1107.json   LLaVA JSON, 1,246K captions by ShareCaptioner""",
    read=read,
    expected={"GPT-4V captions": 102_025, "ShareCaptioner captions": 1_246_901},
)
