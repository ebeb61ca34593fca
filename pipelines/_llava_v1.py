"""LLaVA v1 at full size: a linear projector, 224-pixel CLIP unless said otherwise, released JSON files as data.

The scripts are those of `haotian-liu/LLaVA scripts/`: `pretrain.sh` for every projector, then one of `finetune.sh`
(Instruct-80K), `finetune_full_schedule.sh` (158K, three epochs), `finetune_lora.sh` or `finetune_sqa.sh`. None of them
pads images or groups samples. The published scores of this generation are GPT-4 reviews of LLaVA-Bench (COCO):
`evaluate` gives answers and scores of tests that need no judge, the `judge` stage takes a key and money of yours.

The legacy models are older than these scripts. The code at `e9f9baa` pretrains on the template that it finetunes on,
with <im_start> and <im_end> round every image, and shards nothing in the first stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

from llavaflow.models.lora import Lora
from llavaflow.models.templates import Rule
from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.train import Train

SCRIPTS = f"{base.LLAVA} scripts"
PRETRAIN = f"{SCRIPTS}/pretrain.sh"
README = f"{base.LLAVA} README.md at e9f9baa"
LIGHTNING = f"{SCRIPTS}/train_lightning.sh at e9f9baa"
LIGHTNING_MPT = f"{SCRIPTS}/train_lightning_mpt.sh at e9f9baa"
BENCHMARKS = ("pope", "gqa", "mme")
LCS_CAPTIONS = base.own_data("lcs558k/blip_laion_cc_sbu_558k.json", "lcs558k/images", "plain")
CC3M_CAPTIONS = base.own_data("cc3m_595k/chat.json", "cc3m_595k/images", "plain")
# r 64, alpha 16 and dropout 0.05 are the code's defaults: the v1 script names none of them
SCRIPT_LORA = Lora(r=64, alpha=16, dropout=0.05, bias="none")


def vicuna(size: str, version: str) -> Pretrained:
    """A Vicuna of the hub."""
    return Pretrained(hub=f"lmsys/vicuna-{size}-{version}")


def vicuna_v0(size: str) -> Pretrained:
    """Vicuna v0 was released as a difference to LLaMA only: the sum must lie under `data/`."""
    return Pretrained(path=base.DATA / f"vicuna-{size}-v0")


def llama_2_chat(size: str) -> Pretrained:
    """LLaMA-2-Chat of the hub, for accounts that Meta has let in."""
    return Pretrained(hub=f"meta-llama/Llama-2-{size}-chat-hf")


def instruct_80k(template: str) -> OwnData:
    """LLaVA-Instruct-80K on the pictures of COCO train2017.

    `pipeline data read llava-instruct --option records=80k` draws one from the published parts.
    """
    return base.own_data("llava_instruct/llava_instruct_80k.json", "coco/train2017", template)


def instruct_158k(template: str) -> OwnData:
    """LLaVA-Instruct-158K; scripts say `llava_instruct_158k.json`, the released file is called 150k."""
    return base.own_data("llava_instruct/llava_instruct_150k.json", "coco/train2017", template)


def projector(captions: OwnData, language: Pretrained, vision: Pretrained = base.CLIP_224) -> Train:
    """Stage 1 of every v1 model."""
    return base.pretrain(
        captions,
        vision=vision,
        language=language,
        projector="linear",
        learning_rate=2e-3,
        global_batch=128,
    )


def legacy_projector(captions: Literal["lcs", "cc3m"], language: Pretrained, template: str) -> Train:
    """Stage 1 of the code at e9f9baa."""
    data = replace(LCS_CAPTIONS if captions == "lcs" else CC3M_CAPTIONS, template=template)
    first = projector(data, language)
    masking: Rule = "upstream" if template == "v0" else "answers"
    return replace(first, template=template, masking=masking, im_start_end=True, zero=0)


def cite_legacy(name: str, stage: Train, script: str) -> dict[str, str]:
    """A training stage of that code: what the script says, and what it leaves to the code."""
    code = f"{base.LLAVA} llava/train/train.py at e9f9baa"
    fields = "im_start_end masking template" if stage.masking == "upstream" else "im_start_end template"
    return {**base.cite_script(name, stage, script), **base.cite(name, code, fields)}


def instruct(data: OwnData, first: Train, template: str, **settings: Any) -> Train:
    """Stage 2 of every v1 model: one learning rate, ZeRO-2, nothing grouped."""
    shared: dict[str, Any] = {
        "template": template,
        "image_aspect": "square",
        "batching": "padded",
        "learning_rate": 2e-5,
        "global_batch": 128,
        "zero": 2,
    }
    return base.finetune(data, first, **{**shared, **settings})


def v1_recipe(
    name: str,
    title: str,
    *,
    first: Train,
    second: Train,
    script: str,
    licence: str,
    licence_note: str,
    benchmarks: tuple[str, ...] = BENCHMARKS,
    notes: str = "",
    sources: Mapping[str, str] = MappingProxyType({}),
) -> Recipe:
    """A v1 model from its two trainings; `script` is that of the second, `sources` what it does not say."""
    return base.two_stages(
        name,
        title,
        first=first,
        second=second,
        benchmarks=benchmarks,
        licence=licence,
        licence_notes=(licence_note, *base.LICENCE_DATA),
        notes=notes,
        sources={
            **base.cite_script("pretrain", first, PRETRAIN),
            **base.cite_script("finetune", second, f"{SCRIPTS}/{script}"),
            **sources,
        },
    )
