"""LLaVA v1 legacy: models on Vicuna v0 and v1.1 that were released as differences to LLaMA.

They were made by the code of May 2023 (`e9f9baa`): both stages train on the model's own template (`plain` came later),
every image stands between <im_start> and <im_end>, and only the second stage is sharded (by FSDP, which ZeRO-3 is the
equal of). The ScienceQA model is the one without the two tokens.
"""

from __future__ import annotations

from dataclasses import replace

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_v1 as v1
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.train import Train

DELTA = "Upstream released its difference to LLaMA; `pipeline checkpoint apply-delta` adds the two."
VICUNA_V0 = "Vicuna v0 is a difference to LLaMA too: put the sum under data/."
BATCH = (
    "The sources conflict on the batch of the three epochs: 32 in README.md (e9f9baa and v1.0.1), taken here as it is "
    "of the time of these weights; 128 in scripts/finetune_full_schedule.sh, which came later. "
    "`--set finetune.global_batch=128` is the script."
)
LABELS_V0 = "Labels of template v0 are upstream's, which learn the first two tokens of a question."

SECOND_PROMPT = (
    "Lessons in QCM-LEPA put the letter behind ###, where v0 stops: upstream asks for it in a second prompt "
    "(model_vqa_science.py --answer-prompter), which the evaluation here does not, so that it finds no letter."
)


def _recipe(name: str, model: str, artifact: str, *, first: Train, second: Train, script: str) -> Recipe:
    v0, lessons = second.template == "v0", "ScienceQA" in model
    told = [DELTA, *([BATCH] if second.epochs == 3 else []), *([VICUNA_V0, LABELS_V0] if v0 else [])]
    return base.two_stages(
        f"llava-v1-legacy-{name}",
        f"{model} ({artifact})",
        first=first,
        second=second,
        benchmarks=("scienceqa",) if lessons else v1.BENCHMARKS,
        licence="other",
        licence_notes=(base.LICENCE_LLAMA_1, *base.LICENCE_DATA),
        notes=" ".join([*told, *([SECOND_PROMPT] if lessons else [])]),
        sources={
            **v1.cite_legacy("pretrain", first, script),
            **v1.cite_legacy("finetune", second, script),
        },
    )


def _instruct(data: OwnData, first: Train, **settings: int) -> Train:
    """The second stage on the template of the first."""
    return v1.instruct(
        data,
        first,
        first.template,
        masking=first.masking,
        im_start_end=first.im_start_end,
        zero=3,
        **settings,
    )


def _long(size: str, version: str) -> Recipe:
    """CC3M, then the whole of the instructions three times in batches of 32."""
    template = version.partition("-")[0]
    language = v1.vicuna_v0(size) if version == "v0" else v1.vicuna(size, version.replace("-", "."))
    first = v1.legacy_projector("cc3m", language, template)
    second = _instruct(v1.instruct_158k(template), first, epochs=3, global_batch=32)
    title = f"LLaVA v1 Vicuna-{size.upper()} {version.replace('-', '.')}, 3 epochs"
    artifact = f"LLaVA-{size}-delta-{version}"
    return _recipe(f"{size}-{version}", title, artifact, first=first, second=second, script=v1.README)


def _lightning() -> Recipe:
    first = v1.legacy_projector("lcs", v1.vicuna("7b", "v1.1"), "v1")
    second = _instruct(v1.instruct_80k("v1"), first)
    return _recipe(
        "lightning-7b-v1-1",
        "LLaVA Lightning Vicuna-7B v1.1, 1 epoch",
        "LLaVA-Lightning-7B-delta-v1-1",
        first=first,
        second=second,
        script=v1.LIGHTNING,
    )


def _scienceqa() -> Recipe:
    first = replace(v1.legacy_projector("cc3m", v1.vicuna_v0("13b"), "v0"), im_start_end=False)
    lessons = base.own_data("scienceqa/llava_train_QCM-LEPA.json", "scienceqa/train", "v0")
    return _recipe(
        "13b-v0-scienceqa",
        "LLaVA v1 Vicuna-13B v0 on ScienceQA, 12 epochs",
        "LLaVA-13b-delta-v0-science_qa",
        first=first,
        second=_instruct(lessons, first, epochs=12, global_batch=32),
        script=v1.README,
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _long("13b", "v1-1"),
        _long("13b", "v0"),
        _long("7b", "v0"),
        _lightning(),
        _scienceqa(),
    )
}
