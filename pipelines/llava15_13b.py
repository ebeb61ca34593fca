"""LLaVA-1.5 13B: the pipeline of `llava15` on Vicuna-13B, whose numbers the published scripts are."""

from __future__ import annotations

from llavaflow.pipelines import llava15
from llavaflow.stages._pretrained import Pretrained

VICUNA_13B = Pretrained(hub="lmsys/vicuna-13b-v1.5")

RECIPE = llava15.RECIPE.replace(
    {"pretrain": {"language": VICUNA_13B}, "finetune": {"language": VICUNA_13B}, "publish": {"title": "LLaVA-1.5 13B"}},
    name="llava15-13b",
    title="LLaVA-1.5 13B, from URL tables and raw data sets to a scored checkpoint",
    notes=llava15.DATA_NOTES,
    sources={
        **llava15.RECIPE.sources,
        "pretrain.language.hub": llava15.PRETRAIN,
        "finetune.language.hub": llava15.FINETUNE,
    },
)
