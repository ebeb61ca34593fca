"""LLaVA v1 on Vicuna-7B v1.3 by QLoRA: adapters on a language model that is held in 4 bits (`finetune_qlora.sh`).

No published model was made by this script; it is the way to train where memory is least. Needs CUDA and bitsandbytes.
"""

from __future__ import annotations

from dataclasses import replace

from llavaflow.models.quantization import Quantization
from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_v1 as v1

SCRIPT = "finetune_qlora.sh"

first = v1.projector(v1.LCS_CAPTIONS, v1.vicuna("7b", "v1.3"))
lora = replace(v1.SCRIPT_LORA, quantization=Quantization(bits=4, quant_type="nf4", double_quant=True))
second = v1.instruct(v1.instruct_80k("v1"), first, "v1", lora=lora)

RECIPE = v1.v1_recipe(
    "llava-v1-7b-qlora",
    "LLaVA v1 Vicuna-7B v1.3, QLoRA",
    first=first,
    second=second,
    script=SCRIPT,
    licence="other",
    licence_note=base.LICENCE_LLAMA_1,
    sources=base.cite(
        "finetune",
        f"{v1.SCRIPTS}/{SCRIPT} and the defaults of llava/train/train.py",
        "lora.quantization.bits lora.quantization.quant_type lora.quantization.double_quant",
    ),
    notes="The rounded weights serve training alone: the adapter is merged into the full ones.",
)
