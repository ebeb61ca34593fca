"""ConvLLaVA at full size: a ConvNeXt with a fresh fifth stage, trained in three steps at 768, 1024 or 1536 pixels.

    pretrain     the projector and the new stage, on captions
    vl-pretrain  projector, language model and the tower's last three stages, on captions and instructions
    finetune     projector and language model, on the mixture of LLaVA-1.5

Its sources disagree on the learning rate of the second step: README and docs/Data.md say 2e-5, scripts/stage_2.sh says
1e-3. 2e-5 is taken: it is said twice, it is what ShareGPT4V used for the same step, and 1e-3 on a whole language model
is fifty times what finetuning takes. `--set vl-pretrain.learning_rate=1e-3` is the script.
"""

from __future__ import annotations

from typing import Any

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.publish import Publish
from llavaflow.stages.train import Train

REPOSITORY = "alibaba/conv-llava"
DOCUMENTS = f"{REPOSITORY} README.md and docs/Data.md (scripts/stage_2.sh says 1e-3)"
# transformers' ConvNextModel form of laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup
TOWER = Pretrained(path=base.DATA / "convnext_large")
LANGUAGE = Pretrained(hub="lmsys/vicuna-7b-v1.5")
BENCHMARKS = (
    "mme", "mmbench", "seed", "realworldqa", "mmmu", "textvqa", "docvqa", "pope", "refcoco", "refcoco-plus", "refcocog",
)  # fmt: skip
NOTES = (
    "The sources conflict on the learning rate of vl-pretrain: 2e-5 in README and docs/Data.md, taken here, 1e-3 in "
    "scripts/stage_2.sh. Captions are ShareGPT4V-PT, ShareGPT4V-100K and ALLaVA's in one LLaVA JSON; the second step "
    "adds part of VFLAN, which part is not published. The tower is LAION's CLIP ConvNeXt-Large as transformers' "
    "ConvNextModel, under data/convnext_large."
)


def conv_llava(pixels: int, tokens: int) -> Recipe:
    """The recipe at one resolution; the three differ in nothing else."""
    shared: dict[str, Any] = {
        **base.COMMON,
        "template": "v1",
        "image_aspect": "pad",
        "image_size_px": pixels,
        "batching": "grouped",
        "select_layer": -1,
        "projector": "mlp2x_gelu",
    }
    captions = base.own_data("convllava/captions.json", "convllava/images", "v1")
    captions_and_vflan = base.own_data("convllava/captions_vflan.json", "convllava/images", "v1")
    instructions = base.own_data("mix665k/llava_v1_5_mix665k.json", "mix665k/images", "v1")
    first = Train(
        data=captions,
        vision=TOWER,
        language=LANGUAGE,
        added_stage=(6, 3072),
        trainable=("mm_projector", "vision_tower"),
        vision_from_layer=4,
        learning_rate=3e-4,
        global_batch=256,
        zero=2,
        **shared,
    )
    second = Train(
        data=captions_and_vflan,
        base=Pretrained(stage=first, folder="model"),
        trainable=("mm_projector", "language_model", "vision_tower"),
        vision_from_layer=2,
        learning_rate=2e-5,
        global_batch=256,
        zero=3,
        **shared,
    )
    third = Train(
        data=instructions,
        base=Pretrained(stage=second, folder="model"),
        trainable=("mm_projector", "language_model"),
        learning_rate=2e-5,
        global_batch=128,
        zero=3,
        **shared,
    )
    questions = base.exam(BENCHMARKS)
    scores = base.evaluate(third, questions, "v1")
    title = f"ConvLLaVA {pixels}: {tokens} tokens per image"
    publish = Publish(
        model=third,
        projector=third,
        data=(captions, captions_and_vflan, instructions),
        scores=scores,
        title=title,
        licence="llama2",
        licence_notes=(base.LICENCE_LLAMA_2, *base.LICENCE_DATA),
    )
    scripts = {"pretrain": first, "vl-pretrain": second, "finetune": third}
    return Recipe(
        name=f"conv-llava-{pixels}",
        title=title,
        notes=NOTES,
        stages={
            "captions": captions,
            "captions-vflan": captions_and_vflan,
            "instructions": instructions,
            **scripts,
            "questions": questions,
            "evaluate": scores,
            "publish": publish,
        },
        sources={
            **{
                path: source
                for number, (name, stage) in enumerate(scripts.items(), start=1)
                for path, source in base.cite_script(name, stage, f"{REPOSITORY} scripts/stage_{number}.sh").items()
            },
            **base.cite("pretrain", f"{REPOSITORY} scripts/stage_1.sh", "added_stage[0] added_stage[1] image_size_px"),
            **base.cite("pretrain", f"{REPOSITORY} scripts/stage_1.sh: the tower is frozen, the new stage is not",
                        "vision_from_layer"),
            **base.cite("vl-pretrain", f"{REPOSITORY} scripts/stage_2.sh", "vision_from_layer image_size_px"),
            **base.cite("vl-pretrain", DOCUMENTS, "learning_rate"),
        },
    )  # fmt: skip
