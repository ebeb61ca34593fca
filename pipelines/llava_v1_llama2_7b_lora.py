"""LLaVA v1 on LLaMA-2-7B-Chat, finetuned with LoRA (`llava-llama-2-7b-chat-lightning-lora-preview`)."""

from __future__ import annotations

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_v1 as v1

first = v1.projector(v1.LCS_CAPTIONS, v1.llama_2_chat("7b"))
second = v1.instruct(v1.instruct_80k("llava_llama_2"), first, "llava_llama_2", lora=v1.SCRIPT_LORA)

RECIPE = v1.v1_recipe(
    "llava-v1-llama2-7b-lora",
    "LLaVA v1 LLaMA-2-7B-Chat, LoRA",
    first=first,
    second=second,
    script="finetune_lora.sh",
    licence="llama2",
    licence_note=base.LICENCE_LLAMA_2,
)
