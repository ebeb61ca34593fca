"""LLaVA-NeXT on Qwen2-7B, by the script of its repository."""

from __future__ import annotations

from llavaflow.pipelines import _llava_next as next_
from llavaflow.stages._pretrained import Pretrained

RECIPE = next_.llava_next(
    "llava-next-qwen2-7b",
    "Qwen2-7B",
    Pretrained(hub="Qwen/Qwen2-7B-Instruct"),
    "qwen_1_5",
    script="LLaVA-VL/LLaVA-NeXT scripts/train/direct_finetune_clip.sh",
    max_length=32768,
    licence="apache-2.0",
    licence_note="The language model is Qwen2-7B-Instruct, under Apache-2.0.",
    notes=(
        "The script takes its number of devices from the environment: 16 of them, as in the Llama-3 card, make the "
        "global batch 64. Its data file was never distributed under the name it has there."
    ),
)
