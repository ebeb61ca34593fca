"""LLaVA Lightning on MPT-7B-Chat (`LLaVA-Lightning-MPT-7B-preview`): the one model of the family that is not a LLaMA.

Its script passes `--version v1`; the code takes the template `mpt` by the name of the model all the same.
"""

from __future__ import annotations

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_v1 as v1
from llavaflow.stages._pretrained import Pretrained

first = v1.legacy_projector("lcs", Pretrained(hub="mosaicml/mpt-7b-chat"), "mpt")
second = v1.instruct(v1.instruct_80k("mpt"), first, "mpt", im_start_end=True, zero=3)

RECIPE = base.two_stages(
    "llava-mpt-7b",
    "LLaVA Lightning MPT-7B-Chat",
    first=first,
    second=second,
    benchmarks=v1.BENCHMARKS,
    licence="cc-by-nc-sa-4.0",
    licence_notes=("The language model is MPT-7B-Chat: for non-commercial use only.", *base.LICENCE_DATA),
    notes=(
        "Three hours on 8 A100 for both stages, by its README. The checkpoint carries its code (`auto_map`): load it "
        "with trust_remote_code=True. FSDP of the second stage is ZeRO-3 here."
    ),
    sources={
        **v1.cite_legacy("pretrain", first, v1.LIGHTNING_MPT),
        **v1.cite_legacy("finetune", second, v1.LIGHTNING_MPT),
    },
)
