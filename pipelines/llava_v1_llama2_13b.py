"""LLaVA v1 on LLaMA-2-13B-Chat, all of the language model finetuned (`llava-llama-2-13b-chat-lightning-preview`)."""

from __future__ import annotations

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_v1 as v1

first = v1.projector(v1.LCS_CAPTIONS, v1.llama_2_chat("13b"))
second = v1.instruct(v1.instruct_80k("llava_llama_2"), first, "llava_llama_2")

RECIPE = v1.v1_recipe(
    "llava-v1-llama2-13b",
    "LLaVA v1 LLaMA-2-13B-Chat",
    first=first,
    second=second,
    script="finetune.sh",
    licence="llama2",
    licence_note=base.LICENCE_LLAMA_2,
)
