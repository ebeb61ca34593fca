"""Finetune a LLaVA checkpoint on your own LLaVA JSON through LoRA: `--set data.file=my.json --set data.images=DIR`.

As `finetune-task`, at a rank and with learning rates of upstream's script; the adapters are merged into `model/` and
kept beside it.
"""

from __future__ import annotations

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import finetune_task
from llavaflow.pipelines.llava15_lora import ADAPTERS, FIELDS

SCRIPT = "haotian-liu/LLaVA scripts/v1_5/finetune_task_lora.sh"

RECIPE = finetune_task.RECIPE.replace(
    {"finetune": ADAPTERS},
    name="finetune-task-lora",
    title="Finetune a LLaVA checkpoint on your own data, through LoRA",
    sources={**finetune_task.RECIPE.sources, **base.cite("finetune", SCRIPT, FIELDS)},
)
