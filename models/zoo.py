"""The published models of the LLaVA family: what made each, where its weights are, and the scores claimed for it.

    ZOO["llava-v1.5-13b"].scores["POPE"]    Score(value=85.9, rule="mean F1 over ...", harness=..., source=...)

Scores are keyed by the column names of the benchmarks in `datasets/benchmarks/`. A number never travels without its
rule, the harness that produced it and the page it was read from: the same benchmark under another harness is another
number (LLaVA-Bench of LLaVA-1.5-13B is 72.5 on its zoo page and 70.7 on a leaderboard).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Form = Literal["checkpoint", "lora", "projector", "delta"]

LLAVA_ZOO = "LLaVA docs/MODEL_ZOO.md"
CONV_ZOO = "ConvLLaVA docs/Model_zoo.md"
LEADERBOARD = "paper leaderboard page of LLaVA-1.5"
HARNESS = "LLaVA scripts/v1_5/eval, greedy, template vicuna_v1"

# what each column's number is, where LLaVA's own scripts made it
RULES = {
    "VQAv2": "test-dev accuracy by the official server",
    "GQA": "testdev-balanced exact match",
    "VizWiz": "test accuracy by the official server",
    "SQA-I": "accuracy over the questions with an image, CQM-A prompt",
    "TextVQA": "val soft accuracy, OCR tokens in the prompt",
    "POPE": "mean F1 over random, popular and adversarial",
    "MME": "perception points, at most 2000",
    "MME-C": "cognition points, at most 800",
    "MMB": "dev accuracy by the official server, circular",
    "MMB-CN": "dev accuracy by the official server, circular",
    "SEED": "accuracy over image and video questions",
    "SEED-IMG": "accuracy over image questions",
    "LLaVA-W": "mean over GPT-4 reviews of answer over reference, percent",
    "MM-Vet": "mean GPT-4 grade, percent",
    "MMMU": "val accuracy",
    "MathVista": "testmini accuracy",
    "RealWorldQA": "accuracy",
    "DocVQA": "ANLS, percent",
    "SQA": "accuracy over all test questions",
    "Bench-Conv": "GPT-4 review relative to the reference, conversation",
    "Bench-Detail": "GPT-4 review relative to the reference, detail",
    "Bench-Complex": "GPT-4 review relative to the reference, complex reasoning",
    "Bench-All": "GPT-4 review relative to the reference, all of LLaVA-Bench COCO",
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One published number. `spread` is what the source gives after a plus-minus."""

    value: float
    rule: str
    harness: str
    source: str
    spread: float | None = None


@dataclass(frozen=True, kw_only=True)
class ZooRow:
    """One row of a model zoo page. `weights` is a hub name; `other` holds further published numbers with their own
    conditions, which must not be put beside the columns. `im_start_end`: images stand between two tokens of their own.
    `image_aspect`, `select_layer`: how pictures are brought to the tower's square, and the layer that is taken of it.
    """

    title: str
    form: Form
    language: str
    tower: str
    projector: str
    pretrain_data: str
    finetune_data: str
    schedule: str
    template: str
    weights: str
    licence: str
    source: str
    recipe: str | None = None
    im_start_end: bool = False
    image_aspect: str = "square"
    select_layer: int = -2
    scores: dict[str, Score] = field(default_factory=dict)
    other: dict[str, Score] = field(default_factory=dict)
    notes: str = ""


_LLAMA_1 = "LLaMA (non-commercial), as its base model"
_LLAMA_2 = "Llama 2 Community License, as its base model"
_CLIP, _CLIP_336 = "openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14-336"
_LCS, _CC, _I80, _I158 = "LCS-558K", "CC-595K", "LLaVA-Instruct-80K", "LLaVA-Instruct-158K"
_V15 = "VQAv2 GQA VizWiz SQA-I TextVQA POPE MME MMB MMB-CN SEED LLaVA-W MM-Vet"
_V16 = "MMMU MathVista VQAv2 GQA VizWiz SQA-I TextVQA POPE MME MME-C MMB MMB-CN SEED-IMG LLaVA-W MM-Vet"
_BENCH = "Bench-Conv Bench-Detail Bench-Complex Bench-All"
_CONV = "MME MMB SEED RealWorldQA MMMU MM-Vet TextVQA DocVQA POPE"
_GROUNDING = (
    "RefCOCO-val RefCOCO-testA RefCOCO-testB RefCOCO+-val RefCOCO+-testA RefCOCO+-testB RefCOCOg-val RefCOCOg-test"
)
_NO_SCRIPT = "No training script was published. Unfrozen tower, anyres, spatial_unpad."
_ONLY_WITH = "Use with this language model and this tower only, im_start_end off."
_NAMES = {"vicuna-7b": "Vicuna-7B", "vicuna-13b": "Vicuna-13B", "mistral-7b": "Mistral-7B", "34b": "Hermes-Yi-34B"}


def _scores(
    columns: str, values: str, harness: str = HARNESS, source: str = LLAVA_ZOO, rule: str | None = None
) -> dict[str, Score]:
    """Scores of one printed row: columns and values in the same order; `rule` replaces LLaVA's for all of them."""
    pairs = zip(columns.split(), map(float, values.split()), strict=True)
    return {
        column: Score(value=value, rule=rule or RULES[column], harness=harness, source=source)
        for column, value in pairs
    }


def _reported(source: str, **values: tuple[float, float | None, str]) -> dict[str, Score]:
    """Numbers of another page: column=(value, spread, rule)."""
    return {
        column.replace("_", "-"): Score(value=value, spread=spread, rule=rule, harness="not stated", source=source)
        for column, (value, spread, rule) in values.items()
    }


def _v16() -> Iterator[tuple[str, ZooRow]]:
    rows = [
        ("vicuna-7b", "lmsys/vicuna-7b-v1.5", "vicuna_v1", _LLAMA_2, "llava16-vicuna-7b",
         "35.8 34.6 81.8 64.2 57.6 70.1 64.9 86.5 1519 332 67.4 60.6 70.2 81.6 43.9"),
        ("vicuna-13b", "lmsys/vicuna-13b-v1.5", "vicuna_v1", _LLAMA_2, "llava16-vicuna-13b",
         "36.2 35.3 82.8 65.4 60.5 73.6 67.1 86.2 1575 326 70 64.4 71.9 87.3 48.4"),
        ("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.2", "mistral_instruct", "Apache-2.0", "llava16-mistral-7b",
         "35.3 37.7 82.2 64.8 60.0 72.8 65.7 86.7 1498 321 68.7 61.2 72.2 83.2 47.3"),
        ("34b", "NousResearch/Nous-Hermes-2-Yi-34B", "chatml_direct", "Apache-2.0", "llava16-34b",
         "51.1 46.5 83.7 67.1 63.8 81.8 69.5 87.7 1631 397 79.3 79 75.9 89.6 57.4"),
    ]  # fmt: skip
    for name, language, template, licence, recipe, values in rows:
        yield f"llava-v1.6-{name}", ZooRow(
            title=f"LLaVA-1.6 {_NAMES[name]}", form="checkpoint", language=language, tower=_CLIP_336,
            projector="mlp2x_gelu", pretrain_data=_LCS, finetune_data="LLaVA-NeXT mix, about 760K to 790K",
            schedule="full_ft-1e", template=template, weights=f"liuhaotian/llava-v1.6-{name}", licence=licence,
            source=LLAVA_ZOO, recipe=recipe, scores=_scores(_V16, values, f"LLaVA-1.6's own, template {template}"),
            notes=_NO_SCRIPT, image_aspect="anyres",
        )  # fmt: skip


def _v15() -> Iterator[tuple[str, ZooRow]]:
    rows = [
        ("7b", "full_ft-1e", "llava15", "78.5 62.0 50.0 66.8 58.2 85.9 1510.7 64.3 58.3 58.6 65.4 31.1"),
        ("13b", "full_ft-1e", "llava15-13b", "80.0 63.3 53.6 71.6 61.3 85.9 1531.3 67.7 63.6 61.6 72.5 36.1"),
        ("7b-lora", "lora-1e", "llava15-lora", "79.1 63.0 47.8 68.4 58.2 86.4 1476.9 66.1 58.9 60.1 67.9 30.2"),
        ("13b-lora", "lora-1e", "llava15-13b-lora", "80.0 63.3 58.9 71.2 60.2 86.7 1541.7 68.5 61.5 61.3 69.5 38.3"),
    ]
    reviewed, graded = "GPT review, judge runs of the page", "GPT-4 grade"
    other = {
        "7b": _reported(LEADERBOARD, LLaVA_W=(63.4, None, reviewed), MM_Vet=(31.1, 0.2, graded)),
        "13b": _reported(LEADERBOARD, LLaVA_W=(70.7, None, reviewed), MM_Vet=(36.3, 0.2, graded))
        | _reported("MathVista README leaderboard", MathVista=(27.6, None, "testmini accuracy")),
    }
    for name, schedule, recipe, values in rows:
        size = name.removesuffix("-lora")
        yield f"llava-v1.5-{name}", ZooRow(
            title=f"LLaVA-1.5 {size.upper()}{' LoRA' if size != name else ''}",
            form="lora" if size != name else "checkpoint", language=f"lmsys/vicuna-{size}-v1.5", tower=_CLIP_336,
            projector="mlp2x_gelu", pretrain_data=_LCS, finetune_data="llava_v1_5_mix665k", schedule=schedule,
            template="vicuna_v1", weights=f"liuhaotian/llava-v1.5-{name}", licence=_LLAMA_2, source=LLAVA_ZOO,
            recipe=recipe, scores=_scores(_V15, values), other=other.get(name, {}), image_aspect="pad",
        )  # fmt: skip


def _v1() -> Iterator[tuple[str, ZooRow]]:
    harness = "LLaVA-Bench COCO, GPT-4 review"
    lora = "llava-v1-0719-336px-lora-vicuna-13b-v1.3"
    for name, form in ((lora, "lora"), (lora.replace("-lora-", "-lora-merge-"), "checkpoint")):
        yield name, ZooRow(
            title=f"LLaVA v1 Vicuna-13B-v1.3 336{', merged' if form == 'checkpoint' else ''}",
            form="lora" if form == "lora" else "checkpoint", language="lmsys/vicuna-13b-v1.3", tower=_CLIP_336,
            projector="linear", pretrain_data=_LCS, finetune_data=_I80, schedule="proj-1e, lora-1e", template="v1",
            weights=f"liuhaotian/{name}", licence=_LLAMA_1, source=LLAVA_ZOO, recipe="llava-v1-13b-336",
            scores=_scores(_BENCH, "64.3 55.9 81.7 70.1", harness),
            other=_scores(_BENCH, "68.4 59.9 84.3 73.5", harness + ", beam 5"),
        )  # fmt: skip
    rows = [
        ("llava-llama-2-13b-chat-lightning-preview", "13b", "full_ft-1e", "llava-v1-llama2-13b", "56.7 58.6 80.0 67.9"),
        ("llava-llama-2-7b-chat-lightning-lora-preview", "7b", "lora-1e", "llava-v1-llama2-7b-lora",
         "51.2 58.9 71.6 62.8"),
    ]  # fmt: skip
    for name, size, schedule, recipe, values in rows:
        yield name, ZooRow(
            title=f"LLaVA v1 LLaMA-2-{size.upper()}-Chat", form="lora" if "lora" in schedule else "checkpoint",
            language=f"meta-llama/Llama-2-{size}-chat-hf", tower=_CLIP, projector="linear", pretrain_data=_LCS,
            finetune_data=_I80, schedule=schedule, template="llava_llama_2", weights=f"liuhaotian/{name}",
            licence=_LLAMA_2, source=LLAVA_ZOO, recipe=recipe, scores=_scores(_BENCH, values, harness),
        )  # fmt: skip
    yield "llava-lcs558k-scienceqa-vicuna-13b-v1.3", ZooRow(
        title="LLaVA v1 ScienceQA Vicuna-13B-v1.3", form="checkpoint", language="lmsys/vicuna-13b-v1.3", tower=_CLIP,
        projector="linear", pretrain_data=_LCS, finetune_data="ScienceQA QCM-LEA", schedule="full_ft-12e",
        template="v1", weights="liuhaotian/llava-lcs558k-scienceqa-vicuna-13b-v1.3", licence=_LLAMA_1,
        source=LLAVA_ZOO, recipe="scienceqa",
        scores=_scores("SQA", "91.087", "LLaVA eval_science_qa.py", "result file published with the checkpoint"),
    )  # fmt: skip
    yield "LLaVA-Lightning-MPT-7B-preview", ZooRow(
        title="LLaVA Lightning MPT-7B-Chat", form="checkpoint", language="mosaicml/mpt-7b-chat", tower=_CLIP,
        projector="linear", pretrain_data=_LCS, finetune_data=_I80, schedule="full_ft-1e", template="mpt",
        weights="liuhaotian/LLaVA-Lightning-MPT-7B-preview", licence="CC-BY-NC-SA-4.0, as its base model",
        source=LLAVA_ZOO, recipe="llava-mpt-7b", im_start_end=True,
    )  # fmt: skip


def _deltas() -> Iterator[tuple[str, ZooRow]]:
    rows = [
        ("LLaVA-13b-delta-v1-1", "13B-v1.1", _CC, _I158, "full_ft-3e", "v1", "13b-v1-1"),
        ("LLaVA-Lightning-7B-delta-v1-1", "7B-v1.1", _LCS, _I80, "full_ft-1e", "v1", "lightning-7b-v1-1"),
        ("LLaVA-13b-delta-v0", "13B-v0", _CC, _I158, "full_ft-3e", "v0", "13b-v0"),
        ("LLaVA-13b-delta-v0-science_qa", "13B-v0", _CC, "ScienceQA", "full_ft-12e", "v0", "13b-v0-scienceqa"),
        ("LLaVA-7b-delta-v0", "7B-v0", _CC, _I158, "full_ft-3e", "v0", "7b-v0"),
    ]
    for name, base, pretrain, finetune, schedule, template, recipe in rows:
        yield name, ZooRow(
            title=f"LLaVA v1 Vicuna-{base} {finetune}, delta", form="delta", language=_vicuna(base), tower=_CLIP,
            projector="linear", pretrain_data=pretrain, finetune_data=finetune, schedule=schedule, template=template,
            weights=f"liuhaotian/{name}", licence=_LLAMA_1, source=LLAVA_ZOO, recipe=f"llava-v1-legacy-{recipe}",
            im_start_end=finetune != "ScienceQA",
            notes="Add to the original LLaMA weights with `pipeline checkpoint apply-delta`.",
        )  # fmt: skip


def _vicuna(name: str) -> str:
    """The hub name of a Vicuna; v0 is on no hub."""
    return f"Vicuna-{name}" if name.endswith("v0") else f"lmsys/vicuna-{name.lower()}"


def _projectors() -> Iterator[tuple[str, ZooRow]]:
    towers = {_CLIP_336: "llava-336px-pretrain", _CLIP: "llava-pretrain"}
    rows = [(f"llava-v1.5-mlp2x-336px-pretrain-vicuna-{size}-v1.5", f"lmsys/vicuna-{size}-v1.5", _CLIP_336)
            for size in ("13b", "7b")]  # fmt: skip
    for tower, prefix in towers.items():
        rows += [
            (f"{prefix}-llama-2-{size}-chat", f"meta-llama/Llama-2-{size}-chat-hf", tower) for size in ("13b", "7b")
        ]
        rows += [(f"{prefix}-vicuna-{size}-v1.3", f"lmsys/vicuna-{size}-v1.3", tower) for size in ("13b", "7b")]
    for name, language, tower in rows:
        yield name, _projector(
            language, tower, _LCS, f"liuhaotian/{name}",
            "mlp2x_gelu" if "mlp2x" in name else "linear", _ONLY_WITH, _projector_recipe(language, tower),
        )  # fmt: skip
    hub = "liuhaotian/LLaVA-Pretrained-Projectors"
    legacy = [
        ("LLaVA-7b-pretrain-projector-v1-1-LCS-558K-blip_caption", "7B-v1.1", _LCS, "vicuna-7b-v1-1-lcs558k"),
        ("LLaVA-13b-pretrain-projector-v0-CC3M-595K-original_caption", "13B-v0", _CC, "vicuna-13b-v0-cc3m"),
        ("LLaVA-7b-pretrain-projector-v0-CC3M-595K-original_caption", "7B-v0", _CC, "vicuna-7b-v0-cc3m"),
        ("LLaVA-13b-pretrain-projector-v0-CC3M-595K-original_caption-no_im_token", "13B-v0", _CC,
         "vicuna-13b-v0-cc3m-no-im-token"),
    ]  # fmt: skip
    for name, language, data, recipe in legacy:
        bare = name.endswith("no_im_token")
        marks = "no im_start_end" if bare else "im_start_end True: the file holds two embedding rows"
        yield name, _projector(
            _vicuna(language), _CLIP, data, f"{hub}/{name}.bin", "linear", f"Legacy, not zero-shot; {marks}.",
            f"projector-{recipe}", "v1" if "v1-1" in name else "v0", not bare,
        )  # fmt: skip


def _projector_recipe(language: str, tower: str) -> str:
    name = language.partition("/")[2].lower().removesuffix("-hf").replace(".", "-")
    return f"projector-{name}-{336 if tower == _CLIP_336 else 224}"


def _projector(
    language: str, tower: str, data: str, weights: str, kind: str, notes: str, recipe: str,
    template: str = "plain", im_start_end: bool = False,
) -> ZooRow:  # fmt: skip
    licence = _LLAMA_1 if "v1.5" not in language and "Llama-2" not in language else _LLAMA_2
    return ZooRow(
        title=f"Projector {kind} for {language.split('/')[-1]}, {tower.split('/')[-1]}", form="projector",
        language=language, tower=tower, projector=kind, pretrain_data=data, finetune_data="", schedule="1e",
        template=template, weights=weights, licence=licence, source=LLAVA_ZOO, notes=notes, recipe=recipe,
        im_start_end=im_start_end,
    )  # fmt: skip


def _later() -> Iterator[tuple[str, ZooRow]]:
    yield "llama3-llava-next-8b", ZooRow(
        title="LLaVA-NeXT Llama-3-8B", form="checkpoint", language="meta-llama/Meta-Llama-3-8B-Instruct",
        tower=_CLIP_336, projector="mlp2x_gelu", pretrain_data=_LCS, finetune_data="llava1_6mix", schedule="full_ft-1e",
        template="llava_llama_3", weights="lmms-lab/llama3-llava-next-8b",
        licence="Meta Llama 3 Community License, as its base model; research only", source="model card",
        recipe="llava-next-llama3-8b", image_aspect="anyres",
        notes="15 to 20 hours on 16 A100-80G. The card gives no scores.",
    )  # fmt: skip
    rows = [
        ("768", "1541 68 68.8 55.9 36.3 44.8 59.1 44.8 87.3", "84.5 89.0 79.2 77.7 84.9 69.7 79.8 79.7"),
        ("1024", "1553 68.8 69.3 58.8 35.1 44.4 62.5 48.5 87.7", "85.5 89.6 78.8 79.3 86.1 70.3 80.6 81.2"),
        ("1536", "1575 68.7 70.2 59.9 35.8 45.9 65.8 59 87.3", "86.5 90.6 80.5 80.0 86.8 71.5 82.0 82.4"),
    ]
    harness, unstated = "ConvLLaVA's evaluation", "not stated on the page"
    for size, values, grounding in rows:
        for form in ("sft", "pretrain"):
            done = form == "sft"
            yield f"ConvLLaVA-{form}-{size}", ZooRow(
                title=f"ConvLLaVA {size}{'' if done else ' before instruction tuning'}", form="checkpoint",
                language="lmsys/vicuna-7b-v1.5", tower=f"five-stage ConvNeXt-L at {size} px", projector="mlp2x_gelu",
                pretrain_data="ShareGPT4V-PT, ShareGPT4V-100K, ALLaVA captions; then the same with part of VFLAN",
                finetune_data="llava_v1_5_mix665k" if done else "", template="v1", licence=_LLAMA_2,
                schedule="three stages, 1e each" if done else "two stages, 1e each",
                weights=f"ConvLLaVA/ConvLLaVA-{form}-{size}", source=CONV_ZOO, recipe=f"conv-llava-{size}",
                scores=_scores(_CONV, values, harness, CONV_ZOO, unstated) | _scores(_GROUNDING, grounding, harness,
                CONV_ZOO, "precision at IoU 0.5") if done else {}, image_aspect="pad", select_layer=-1,
            )  # fmt: skip


ZOO: dict[str, ZooRow] = {name: row for rows in (_v16, _v15, _v1, _projectors, _deltas, _later) for name, row in rows()}
