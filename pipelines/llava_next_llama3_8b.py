"""LLaVA-NeXT on Llama-3-8B by its model card: 15 to 20 hours on two nodes of eight A100."""

from __future__ import annotations

from llavaflow.pipelines import _llava_next as next_
from llavaflow.stages._pretrained import Pretrained

RECIPE = next_.llava_next(
    "llava-next-llama3-8b",
    "Llama-3-8B",
    Pretrained(hub="meta-llama/Meta-Llama-3-8B-Instruct"),
    "llava_llama_3",
    script="model card of lmms-lab/llama3-llava-next-8b",
    max_length=8192,
    licence="llama3",
    licence_note="The language model is Meta Llama 3: its Community License applies; the card allows research only.",
    notes=(
        "The card's batch is arithmetic: 4 per device on 16 devices. Its stage-1 command is absent: the numbers are "
        "those of the Qwen script, on the card's 16 devices. Its run names do not chain: the projector's path differs "
        "between card and scripts."
    ),
)
