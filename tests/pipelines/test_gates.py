"""Every trap of the published scripts and every recurring trouble of their users, and the gate that meets it.

TROUBLES is the list: what was reported, one thing broken in a recipe that passes, and the gate that trips; no other
may. UNSEEN are those that no look at a recipe can tell, with what meets them instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.machine import parse
from llavaflow.infra.store import open_store
from llavaflow.models.images import PINPOINTS_336
from llavaflow.pipelines import _gates
from llavaflow.pipelines._catalogue import find_recipe
from llavaflow.pipelines._settings import apply_settings
from llavaflow.stages import _fetch
from llavaflow.stages._judging import Judging
from llavaflow.tests.pipelines.broken import (
    ADAPTERS,
    GATES,
    VICUNA_13B,
    Case,
    a_chat_model_of_another_family,
    a_judge_without_a_key,
    a_question_that_is_none,
    adapters_as_a_checkpoint,
    adapters_without_a_base,
    another_count,
    backport,
    corrupt,
    damaged_checkpoint,
    damaged_tokenizer,
    devices,
    few_bits_divided,
    few_bits_without_their_package,
    few_records,
    gated,
    gif,
    little_disk,
    llama_3_with_vicunas_template,
    llama_3s_template_on_vicunas_checkpoint,
    meta_file_for_the_captions,
    missing_harness,
    missing_img2dataset,
    named_158k,
    no_llava,
    no_picture_of_a_question,
    no_questions,
    no_room_for_checkpoints,
    old_chip,
    other_packages,
    part_missing,
    projector_file,
    published_weights,
    record,
    scheduler_in_deepspeeds_file,
    setting,
    small_cards,
    sound_recipe,
    store_on_a_file,
    taken_port,
    tiles_from_a_checkpoint_without,
    tokenizer_of_another_model,
    turns,
    variable,
    wandb_without_a_key,
    yi_with_vicunas_template,
)

ROWS_OF_PAIN = 33


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """LLaVA-1.5 7B on two small files, with every kind of stage that a gate looks at, in a sound place."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "OPENAI_BASE_URL", "LLAVAFLOW_KERNELS", "LLAVAFLOW_TRACKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_gates.metadata, "requires", lambda name: ["click>=8"])
    monkeypatch.setattr(_gates, "PAGES", ())
    monkeypatch.setattr(_fetch, "interpreter", lambda: Path("python"))
    usage = _gates.shutil.disk_usage(".")
    monkeypatch.setattr(_gates.shutil, "disk_usage", lambda place: usage._replace(free=2**40))
    store = open_store(tmp_path / "store")
    return Case(tmp_path, sound_recipe(tmp_path), parse("a100-80g"), store, monkeypatch)


# number in the list of users' troubles, or the trap of the scripts; what is broken; the gate that trips; what it says
TROUBLES: tuple[tuple[str, Callable[[Case], None], str, str], ...] = (
    ("1 loss 0, 34B with v1's template", yi_with_vicunas_template, "template", "not made for yi"),
    ("2 loss 0, Llama-3 with v1's template", llama_3_with_vicunas_template, "template", "not made for llama-3"),
    ("3 mask off by one, another tokenizer version", other_packages, "packages", "outside >=99"),
    ("4 the tokenizer of another model", tokenizer_of_another_model, "tokenizer", "</s>, which is no token"),
    ("4 a template that nobody wrote", setting("finetune", template="v7"), "template", "no template 'v7'"),
    ("5 images that are gone", record(image="gone.jpg"), "images", "missing-image in 1"),
    ("6 a .gif that is called .jpg", gif, "images", "wrong-extension"),
    ("7 a corrupt image", corrupt, "images", "broken-image"),
    ("8 a part of the mixture left out", part_missing, "mixture", "sharegpt with its 40,688 records is missing"),
    ("8 35K records fewer", another_count, "mixture", "held against 122712, published are 157,712"),
    ("9 more images than dead addresses leave", setting("download", success_floor=0.9), "addresses", "have lost 28%"),
    ("10 the meta file for the captions", meta_file_for_the_captions, "records", "malformed-record"),
    ("10 which json to use", setting("instructions", file=Path("none.json")), "files", "none.json does not exist"),
    ("13 adapters loaded as a model", adapters_as_a_checkpoint, "start", "adapters and no whole model"),
    ("13 adapters without their base", adapters_without_a_base, "evaluation", "no base is given"),
    ("14 projector of another language model", setting("finetune", language=VICUNA_13B), "projector", "vicuna-7b"),
    ("14 linear projector taken for two layers", setting("finetune", projector="linear"), "projector", "linear"),
    ("14 a file of one layer for two", projector_file((4096, 1024), (4096,)), "projector", "the file is linear"),
    ("14 a file of empty tensors", projector_file((0,), (0,)), "projector", "saved from ZeRO-3 shards"),
    ("14 another layer of the tower", setting("finetune", select_layer=-1), "projector", "select_layer"),
    ("16 out of memory", small_cards, "gpu_memory", "GiB per device are needed, 40 are there"),
    ("17 scheduler key in DeepSpeed's file", scheduler_in_deepspeeds_file, "schedule", "sets a scheduler"),
    ("17 no such settings", setting("finetune", zero=1, offload="cpu"), "schedule", "zero1_offload.json"),
    ("18 prompts longer than the limit", setting("finetune", max_length=512), "length", "576 tokens"),
    ("20 one modality, grouped", setting("pretrain", batching="grouped"), "grouping", "every sample has a picture"),
    ("21 <image> without an image", record(**turns("<image><image> Two?", "One.")), "image_tokens", "image-count"),
    ("23 tiles finetuned without", tiles_from_a_checkpoint_without, "start", "in tiles"),
    ("1 a template of another family's, on one's own model", a_chat_model_of_another_family, "template", "made for yi"),
    ("a base that is no LLaVA", no_llava, "start", "a 'clip' model is no LLaVA"),
    ("23 1.6 of the hub finetuned without tiles", published_weights("liuhaotian/llava-v1.6-vicuna-7b"), "start",
     "saw pictures in tiles"),
    ("a base whose configuration is cut off", damaged_checkpoint, "start", "no config.json that can be read"),
    ("a tokenizer that was not fetched", damaged_tokenizer, "tokenizer", "no tokenizer"),
    ("a question that is none", a_question_that_is_none, "questions", "is no object"),
    ("a benchmark that nobody brings", setting("evaluate", benchmarks=("pope", "gqa")), "questions",
     "evaluate asks gqa, and questions brings pope"),
    ("a judged benchmark that nobody brings", setting("evaluate", review=Judging()), "questions",
     "asks llava-bench-coco"),
    ("a benchmark that does not exist", setting("evaluate", benchmarks=("pope", "gqua")), "questions",
     "no benchmark 'gqua'"),
    ("23 1.6 in the form of transformers, finetuned without tiles",
     published_weights("llava-hf/llava-v1.6-vicuna-7b-hf"), "start", "saw pictures in tiles"),
    ("1 a template of another family's, on a checkpoint of the hub", llama_3s_template_on_vicunas_checkpoint,
     "template", "not made for vicuna"),
    ("a judged benchmark without a judge", setting("evaluate", benchmarks=("pope", "mmvet")), "questions",
     "mmvet is scored by a judge alone"),
    ("a judge over a rule", setting("evaluate", review=Judging(benchmarks=("pope",))), "questions",
     "pope is scored by its rule"),
    ("24 a rate for a tower that is frozen", setting("finetune", vision_lr=2e-6), "trainable", "vision_tower"),
    ("24 adapters on nothing", setting("pretrain", lora=ADAPTERS), "trainable", "language_model does not train"),
    ("25 another transformers", other_packages, "packages", "outside >=99"),
    ("26 bf16 on a chip without", old_chip, "precision", "has no bf16"),
    ("26 fp16 whose loss nobody scales", setting("pretrain", precision="fp16", zero=0), "precision", "under ZeRO"),
    ("27 asked in another template", setting("evaluate", template="v0"), "evaluation", "template 'v0'"),
    ("27 asked in a template that nobody wrote", setting("evaluate", template="v7"), "evaluation", "no template 'v7'"),
    ("29 a judge without a key", a_judge_without_a_key, "credentials", "ask gpt-4"),
    ("30 parquet rows as records", record(conversations=None), "records", "malformed-record"),
    ("31 a gated language model", lambda case: gated(case), "credentials", "is gated and there is no token"),
    ("32 small sets learned by heart", few_records, "small_data", "40 records"),
    ("33 tiles past the limit", setting("finetune", image_aspect="anyres", pinpoints=PINPOINTS_336), "length", "2928"),
    ("trap: batch for 8 GPUs on 7", lambda case: devices(case, 7), "global_batch", "does not divide over 7"),
    ("trap: max length of 512 by default", setting("finetune", max_length=512), "length", "512"),
    ("trap: saves past the end", setting("finetune", save_every_steps=50_000), "saving", "has about 5197"),
    ("trap: 158k named, 150k released", lambda case: named_158k(case), "files",
     "llava_instruct_158k.json"),
    ("trap: a mark inside an answer", record(**turns("<image>\nWhat?", "A wall.</s>")), "reserved_strings", "</s>"),
    ("trap: train2014 named, train2017 released", setting("instructions", images=Path("coco/train2014")), "files",
     "train2014 does not exist"),
    ("trap: folders named otherwise in the documents", no_questions, "questions", "the folder holds images, po-pe"),
    ("trap: gold in its author's folder", setting("questions", folder=Path("/home/author/eval")), "files",
     "/home/author/eval does not exist"),
    ("pictures of questions missing", no_picture_of_a_question, "questions", "such as 0.jpg"),
    ("a kernel that does not exist", variable("LLAVAFLOW_KERNELS", "warp"), "environment", "warp"),
    ("a tracker that does not exist", variable("LLAVAFLOW_TRACKERS", "comet"), "environment", "comet"),
    ("a tracker without a key", wandb_without_a_key, "credentials", "no key for Weights & Biases"),
    ("QLoRA without its package", few_bits_without_their_package, "packages", "bitsandbytes is not installed"),
    ("QLoRA under ZeRO-3", few_bits_divided, "schedule", "cannot divide quantised weights"),
    ("a turn that is empty", record(**turns("<image>\nWhat?", "")), "records", "empty-answer"),
    ("no data given", setting("instructions", file=None), "files", "no data is given"),
    ("no key for a paid service", setting("synthesize", model="gpt-4"), "credentials", "no key to ask gpt-4"),
    ("a port in use", taken_port, "ports", "cannot be had"),
    ("lmms-eval not set up", missing_harness, "harness", "lmms-eval is not installed"),
    ("img2dataset not set up", missing_img2dataset, "img2dataset", "no place of its own"),
    ("the dataclasses backport", backport, "backport", "obsolete"),
    ("a full disk", little_disk, "disk", "1.0 GiB are free"),
    ("no room for checkpoints", no_room_for_checkpoints, "disk", "checkpoints take about"),
)  # fmt: skip
# troubles that show in no recipe: what meets them
UNSEEN = {
    11: "every checkpoint holds the whole training state",
    12: "adapters and projector are written with every checkpoint",
    15: "`pipeline show zoo:NAME` tells where each projector is",
    19: "records without a picture go through the tower's path as well",
    22: "recipes of LLaVA-1.6 tell what each number rests on",
    28: "a score carries its rule and its harness",
}


# traps of the published scripts and documents: the trouble above that meets each, or why no recipe here can have it
TRAPS = {
    "per-device batch written for 8 GPUs": "trap: batch for 8 GPUs on 7",
    "13B names only": "not possible: 7B recipes name their model",
    "158k in scripts, 150k released": "trap: 158k named, 150k released",
    "train2014 in scripts, train2017 in README": "trap: train2014 named, train2017 released",
    "batch of 32 in README, 128 in the script": "not visible: the legacy recipes tell both, and which is taken",
    "pretrain leaves the aspect out": "not possible: Train has no aspect of its own, each recipe says which",
    "neither bf16 nor fp16": "26 bf16 on a chip without",
    "select_layer -1 by default": "14 another layer of the tower",
    "im_patch_token on by default": "not possible: there is no such token here",
    "max length of 512 by default": "trap: max length of 512 by default",
    "saves past the end": "trap: saves past the end",
    "run names of two stages that do not chain": "not possible: a stage holds the stage it starts from",
    "documents that name another file": "10 which json to use",
    "placeholders for paths in code": "no data given",
    "folders of the author in an evaluation": "trap: gold in its author's folder",
    "a module that is not in the repository": "not possible: a benchmark is a file here, or unknown",
    "folders named otherwise in scripts and documents": "trap: folders named otherwise in the documents",
    "a usage comment of another project": "not possible: the help of a command is made from its code",
}


def test_a_sound_recipe_passes_every_gate(case: Case) -> None:
    assert case.found() == {}


@pytest.mark.parametrize(("trouble", "breaks", "gate", "told"), TROUBLES, ids=[row[0] for row in TROUBLES])
def test_one_broken_thing_trips_its_gate_and_no_other(
    case: Case, trouble: str, breaks: Callable[[Case], None], gate: str, told: str
) -> None:
    breaks(case)
    found = case.found()
    assert list(found) == [gate], {name: problems[0].what for name, problems in found.items()}
    assert told in found[gate][0].what
    assert found[gate][0].where and found[gate][0].mend


@pytest.mark.parametrize(
    ("setting", "gate", "told"),
    [
        ("finetune.template=llava_llama_3", "template", "not made for llama models"),
        ("finetune.template=v0", "evaluation", "the model learned 'v0'"),
        ("finetune.save_every_steps=50000", "saving", "it saves every 50000 steps"),
        ("pretrain.save_every_steps=24000", "saving", "it saves every 24000 steps"),
        ("finetune.max_length=9", "length", "up to 9 tokens"),
        ("finetune.projector=linear", "projector", "made with projector mlp2x_gelu"),
        ("finetune.global_batch=1", "global_batch", "2 devices cannot share"),
        ("synthesize.model=gpt-4", "credentials", "no key to ask gpt-4"),
        ("evaluate.review.model=gpt-4", "credentials", "no key to ask gpt-4"),
    ],
)
def test_the_toy_recipe_passes_and_its_models_are_known_to_the_gates(
    case: Case, setting: str, gate: str, told: str
) -> None:
    case.machine = replace(parse("cpu"), memory_gib=16.0)
    case.recipe = find_recipe("llava15-tiny")
    assert case.found() == {}
    case.recipe = apply_settings(case.recipe, [setting])
    found = case.found()
    assert list(found) == [gate] and told in found[gate][0].what


def test_every_known_trouble_is_in_one_of_the_two_lists() -> None:
    seen = {int(row[0].partition(" ")[0]) for row in TROUBLES if row[0][0].isdigit()}
    assert seen | set(UNSEEN) == set(range(1, ROWS_OF_PAIN + 1))
    assert not seen & set(UNSEEN)


def test_every_trap_is_met_or_cannot_be_fallen_into() -> None:
    titles = {row[0] for row in TROUBLES}
    met = {title for title in TRAPS.values() if not title.startswith("not ")}
    assert met <= titles and {title for title in titles if title.startswith("trap: ")} <= met | {
        "trap: a mark inside an answer"
    }


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("HF_HOME", "token"),
        ("HF_HOME", "hub/models--meta-llama--Llama-2-7b-chat-hf/snapshots/1/config.json"),
        ("HF_HUB_CACHE", "models--meta-llama--Llama-2-7b-chat-hf/snapshots/1/config.json"),
        ("XDG_CACHE_HOME", "huggingface/token"),
    ],
)
def test_a_gated_model_is_had_with_a_token_or_from_the_cache_wherever_they_lie(
    case: Case, variable: str, file: str
) -> None:
    gated(case)
    assert "credentials" in case.found()
    case.patch.setenv(variable, str(case.folder / "hub"))
    (case.folder / "hub" / file).parent.mkdir(parents=True, exist_ok=True)
    (case.folder / "hub" / file).touch()
    assert "credentials" not in case.found()


def test_a_table_that_holds_its_questions_needs_no_question_file(case: Case) -> None:
    asked = ("pope", "mmbench")
    case.set("questions", benchmarks=asked)
    case.set("evaluate", benchmarks=asked)
    assert list(case.found()) == ["questions"]
    (case.folder / "eval" / "mmbench").mkdir()
    assert case.found() == {}


def test_every_gate_meets_some_trouble() -> None:
    # two that break more than themselves, tested below
    assert {gate.__name__ for gate in GATES} - {row[2] for row in TROUBLES} == {"store", "memory"}


def test_a_store_that_cannot_be_written_is_seen(case: Case) -> None:
    store_on_a_file(case)
    assert "store" in case.found()


def test_little_memory_is_a_warning_on_this_computer_only(case: Case) -> None:
    case.machine = replace(parse("cpu"), memory_gib=4.0)
    assert [problem.warning for problem in case.found()["memory"]] == [True]
    case.machine = parse("h100")
    assert "memory" not in case.found()


def test_a_missing_file_names_the_field_and_the_setting(case: Case) -> None:
    case.set("instructions", file=case.folder / "none.json")
    problem = case.found()["files"][0]
    assert problem.where == "instructions.file" and "--set instructions.file=" in problem.mend


def test_bad_records_within_the_tolerated_share_only_warn(case: Case) -> None:
    record(image="gone.jpg")(case)
    case.set("instructions", tolerate=0.01)
    assert [problem.warning for problem in case.found()["images"]] == [True]


def test_records_are_read_once_for_all_gates(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from llavaflow.datasets import _records

    opened: list[Path] = []
    really = _records.open_records

    def count(path: Path, folder: Path | None = None) -> Any:
        opened.append(path)
        return really(path, folder)

    monkeypatch.setattr(_records, "open_records", count)
    case.found()
    assert len(opened) == 2
