"""What full-size recipes share: models, data folders, upstream's common flags, and how a number carries its source.

A full-size recipe reads what cannot be downloaded by program from `data/` (relative to where it is run); a folder that
is not there leaves its stage missing in a plan, which names it. Nothing is left to a default that changes the model:
upstream's defaults do when a flag is left out, so every recipe spells its settings out and a golden file holds them.

Two settings are deliberately not upstream's, everywhere: the loss is the mean over all supervised tokens of the global
batch (upstream's mean per micro-batch changes with the number of GPUs), and checkpoints are written during the run
(upstream's `save_steps` lies past the end of it). `--set finetune.loss=micro-batch-mean` gives upstream's loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages._stage import Stage
from llavaflow.stages.evaluate import Evaluate
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.publish import Publish
from llavaflow.stages.questions import Questions
from llavaflow.stages.train import Train

DATA = Path("data")
EXAM = DATA / "eval"

CLIP_224 = Pretrained(hub="openai/clip-vit-large-patch14")
CLIP_336 = Pretrained(hub="openai/clip-vit-large-patch14-336")

LLAVA = "haotian-liu/LLaVA"
MODEL_ZOO = f"{LLAVA} docs/MODEL_ZOO.md"
V1_README = f"{LLAVA} README.md at v1.0.1"
EVAL_SCRIPT = f"{LLAVA} llava/eval/model_vqa_loader.py"
LESSON_SCRIPT = f"{LLAVA} llava/eval/model_vqa_science.py"
HF_DEFAULT = "transformers TrainingArguments, not changed by upstream's scripts"

# the benchmarks that can be scored here, without a server that keeps the gold to itself and without a judge
V15_BENCHMARKS = ("gqa", "textvqa", "pope", "mme", "seed", "mmbench", "mmbench-cn")
V16_BENCHMARKS = ("gqa", "textvqa", "pope", "mme", "seed", "mmbench", "mmbench-cn", "mmmu")

# what every training script of upstream sets to the same value
COMMON: dict[str, Any] = {
    "weight_decay": 0.0,
    "warmup_ratio": 0.03,
    "schedule": "cosine",
    "epochs": 1,
    "max_length": 2048,
    "select_layer": -2,
    "select_feature": "patch",
    "precision": "bf16",
    "gradient_checkpointing": True,
}
SCRIPT_FIELDS = "learning_rate global_batch template image_aspect projector batching zero " + " ".join(COMMON)
LICENCE_LLAMA_2 = "The language model is Llama 2: its Community License and Acceptable Use Policy apply."
LICENCE_LLAMA_1 = "The language model is LLaMA: for research only, not for commercial use."
LICENCE_DATA = (
    "LCS-558K: images of LAION, Conceptual Captions and SBU keep the terms of their owners; BLIP's captions are "
    "model output.",
    "Instructions written by GPT-4 fall under its provider's terms, which bar training competing models.",
)


def cite(stage: str, source: str, fields: str) -> dict[str, str]:
    """Where these fields of a stage come from, as a recipe's `sources` has it."""
    return {f"{stage}.{name}": source for name in fields.split()}


def cite_script(name: str, stage: Train, script: str) -> dict[str, str]:
    """A training stage whose settings are all those of one script, or of the library where the script says nothing."""
    parts = " ".join(f"trainable[{number}]" for number in range(len(stage.trainable)))
    adapters = "lora.r lora.alpha lora.dropout lora.bias projector_lr" if stage.lora else ""
    said = cite(name, script, f"{SCRIPT_FIELDS} {parts} {adapters}")
    return {**said, **cite(name, HF_DEFAULT, "max_grad_norm seed")}


def pretrain(data: Stage, *, vision: Pretrained, language: Pretrained, **settings: Any) -> Train:
    """Stage 1: the projector alone, on captions. Records of one kind and nearly one length: nothing to group."""
    return Train(
        data=data,
        vision=vision,
        language=language,
        template="plain",
        image_aspect="square",
        trainable=("mm_projector",),
        batching="padded",
        **{"zero": 2, **COMMON, **settings},
    )


def finetune(data: Stage, projector_from: Train, **settings: Any) -> Train:
    """The last stage: projector and language model unless told otherwise, from the projector of stage 1."""
    return Train(
        data=data,
        vision=projector_from.vision,
        language=projector_from.language,
        projector_from=projector_from,
        projector=projector_from.projector,
        **{"trainable": ("mm_projector", "language_model"), **COMMON, **settings},
    )


def exam(benchmarks: tuple[str, ...]) -> Questions:
    """The questions of these benchmarks, from the folder that holds all of them."""
    return Questions(folder=EXAM, benchmarks=benchmarks)


def evaluate(model: Stage, questions: Questions, template: str, max_new_tokens: int = 128) -> Evaluate:
    """Greedy answers under the template that the model was trained with, boxes in the padded square."""
    return Evaluate(
        model=model,
        questions=questions,
        benchmarks=questions.benchmarks,
        template=template,
        max_new_tokens=max_new_tokens,
    )


def own_data(file: str, images: str, template: str) -> OwnData:
    """A published JSON file under `data/` and its image folder."""
    return OwnData(file=DATA / file, images=DATA / images, template=template)


def two_stages(
    name: str,
    title: str,
    *,
    first: Train,
    second: Train,
    benchmarks: tuple[str, ...],
    licence: str,
    licence_notes: tuple[str, ...] = LICENCE_DATA,
    notes: str = "",
    sources: dict[str, str],
) -> Recipe:
    """A recipe over published JSON files: captions, instructions, pretrain, finetune, evaluate, publish."""
    questions = exam(benchmarks)
    lessons = benchmarks == ("scienceqa",)
    # a model of these lessons writes lecture and solution first and the answer last
    scores = evaluate(second, questions, second.template, 1024 if lessons else 128)
    publish = Publish(
        model=second,
        projector=first,
        data=(first.data, second.data),
        scores=scores,
        title=title,
        licence=licence,
        licence_notes=licence_notes,
    )
    return Recipe(
        name=name,
        title=title,
        notes=notes,
        stages={
            "captions": first.data,
            "instructions": second.data,
            "pretrain": first,
            "finetune": second,
            "questions": questions,
            "evaluate": scores,
            "publish": publish,
        },
        sources={**cite("evaluate", LESSON_SCRIPT if lessons else EVAL_SCRIPT, "max_new_tokens"), **sources},
    )
