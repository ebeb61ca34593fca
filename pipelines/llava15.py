"""LLaVA-1.5 7B, all of it: URL table to captions, COCO to instructions, ten sets to mix665k, two trainings, scores.

`data/` holds what no program can fetch for you: `lcs558k/urls.parquet` (columns URL and TEXT), `coco` with its
annotations and `train2017`, one folder per set of the mixture, and `eval` with the benchmarks' questions.
"""

from __future__ import annotations

from pathlib import Path

from llavaflow.datasets._mixture import MIX665K
from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.caption import Caption
from llavaflow.stages.download import Download
from llavaflow.stages.filter import Filter
from llavaflow.stages.filters.concepts import Concepts
from llavaflow.stages.filters.decode import Decode
from llavaflow.stages.filters.duplicates import Duplicates
from llavaflow.stages.mix import Component, Mix
from llavaflow.stages.publish import Publish
from llavaflow.stages.synthesize import Synthesize

PRETRAIN = "haotian-liu/LLaVA scripts/v1_5/pretrain.sh"
FINETUNE = "haotian-liu/LLaVA scripts/v1_5/finetune.sh"
PAPER = "Visual Instruction Tuning (arXiv 2304.08485)"
CONCEPTS = f"{PAPER}, appendix: the rule of CC3M-595K"

DATA_NOTES = (
    "Pretraining leaves the aspect out of its flags, which cuts the middle out of each image, while finetuning pads: "
    "both are upstream's. The filters stand for a selection that was published as a rule (concepts) and not as code; "
    "which BLIP wrote the captions was never said; how 86,417 images of Visual Genome were chosen is not known: name "
    "the others in `data/vg/held_out.json`."
)

# the folder under data/ that holds the images of a part; text-only parts have none
IMAGES = {"vqav2": "coco", "okvqa": "coco", "aokvqa": "coco", "refcoco": "coco"}

download = Download(urls=base.DATA / "lcs558k" / "urls.parquet", retry_passes=1)
keep = Filter(
    data=download,
    filters=(Decode(), Duplicates(max_distance=None), Concepts(min_captions=3, max_captions=100)),
)
caption = Caption(data=keep, model=Pretrained(hub="Salesforce/blip-image-captioning-large"))
# some more of each kind than the 158K published, because not every answer can be used
synthesize = Synthesize(
    data=base.DATA / "coco",
    folder="",
    model="gpt-4",
    conversation=60_000,
    detail=24_000,
    complex=80_000,
    batch=True,
)


def _component(name: str) -> Component:
    part = MIX665K.part(name)
    if name == "llava-instruct":
        return Component(
            name=name,
            source=part.source,
            data=synthesize,
            folder="data.jsonl",
            sampling=f"random:{part.expected}",
            expected=part.expected,
        )
    images: Path | None = base.DATA / IMAGES.get(name, name) if part.with_image else None
    return Component(
        name=name,
        source=part.source,
        data=base.DATA / name,
        images=images,
        sampling=part.sampling,
        expected=part.expected,
    )


mix = Mix(components=tuple(_component(part.name) for part in MIX665K.parts), mixture="mix665k", strict=True)
pretrain = base.pretrain(
    caption,
    vision=base.CLIP_336,
    language=Pretrained(hub="lmsys/vicuna-7b-v1.5"),
    projector="mlp2x_gelu",
    learning_rate=1e-3,
    global_batch=256,
)
finetune = base.finetune(
    mix,
    pretrain,
    template="v1",
    image_aspect="pad",
    batching="grouped",
    learning_rate=2e-5,
    global_batch=128,
    zero=3,
)
questions = base.exam(base.V15_BENCHMARKS)
evaluate = base.evaluate(finetune, questions, "v1")
publish = Publish(
    model=finetune,
    projector=pretrain,
    data=(caption, mix),
    scores=evaluate,
    title="LLaVA-1.5 7B",
    licence="llama2",
    licence_notes=(base.LICENCE_LLAMA_2, *base.LICENCE_DATA),
)

RECIPE = Recipe(
    name="llava15",
    title="LLaVA-1.5 7B, from URL tables and raw data sets to a scored checkpoint",
    stages={
        "download": download,
        "filter": keep,
        "caption": caption,
        "synthesize": synthesize,
        "mix": mix,
        "pretrain": pretrain,
        "finetune": finetune,
        "questions": questions,
        "evaluate": evaluate,
        "publish": publish,
    },
    notes=f"The script names 13B; 7B is the same by substitution. {DATA_NOTES}",
    sources={
        **base.cite_script("pretrain", pretrain, PRETRAIN),
        **base.cite_script("finetune", finetune, FINETUNE),
        **base.cite("filter", CONCEPTS, "filters[2].min_captions filters[2].max_captions"),
        **base.cite("synthesize", f"{PAPER}: 58K, 23K and 77K of GPT-4", "conversation detail complex model"),
        **{
            f"mix.components[{number}].expected": "haotian-liu/LLaVA issue 702, sum-checked against the released file"
            for number in range(len(MIX665K.parts))
        },
        **base.cite("evaluate", base.EVAL_SCRIPT, "max_new_tokens template"),
    },
)
