"""LLaVA v1 legacy: models on Vicuna v0 that were released as differences to LLaMA.

Only the one without image start and end tokens: the others train two rows of the embedding table beside the projector.
"""

from __future__ import annotations

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_v1 as v1

README = f"{base.LLAVA} README.md at e9f9baa"

first = v1.projector(v1.CC3M_CAPTIONS, v1.vicuna_v0("13b"))
lessons = base.own_data("scienceqa/llava_train_QCM-LEPA.json", "scienceqa/train", "v0")
second = v1.instruct(lessons, first, "v0", masking="upstream", epochs=12, global_batch=32, zero=3)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        base.two_stages(
            "llava-v1-legacy-13b-v0-scienceqa",
            "LLaVA v1 Vicuna-13B v0 on ScienceQA, 12 epochs (LLaVA-13b-delta-v0-science_qa)",
            first=first,
            second=second,
            benchmarks=("scienceqa",),
            licence="other",
            licence_notes=(base.LICENCE_LLAMA_1, *base.LICENCE_DATA),
            notes=(
                "Vicuna v0 is a difference to LLaMA: put the sum under data/vicuna-13b-v0. Upstream sharded by FSDP, "
                "which ZeRO-3 is the equal of. Labels are upstream's, which learn the first two tokens of a question."
            ),
            sources={
                **base.cite_script("pretrain", first, README),
                **base.cite_script("finetune", second, README),
                **base.cite("evaluate", base.EVAL_SCRIPT, "max_new_tokens"),
            },
        ),
    )
}
