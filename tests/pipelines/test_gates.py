"""Every trap of the published scripts and every recurring trouble of their users, and the gate that meets it.

TROUBLES is the list: what was reported, one thing broken in a recipe that passes, and the gate that trips; no other
may. UNSEEN are those that no look at a recipe can tell, with what meets them instead.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavaflow.datasets._mixture import MIX665K
from llavaflow.infra.errors import InputError
from llavaflow.infra.machine import Machine, parse
from llavaflow.infra.store import ArtifactStore, open_store
from llavaflow.models.images import PINPOINTS_336
from llavaflow.models.lora import Lora
from llavaflow.models.quantization import Quantization
from llavaflow.pipelines import _gates, _gates_training
from llavaflow.pipelines._catalogue import find_recipe
from llavaflow.pipelines._gates import ENVIRONMENT, Preflight, Problem
from llavaflow.pipelines._gates_data import DATA
from llavaflow.pipelines._gates_training import TRAINING
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._settings import apply_settings
from llavaflow.stages import _fetch, _lmms_run, _trackers
from llavaflow.stages._answerer import Checkpoint
from llavaflow.stages._judging import Judging
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.base import Base
from llavaflow.stages.download import Download
from llavaflow.stages.evaluate import Evaluate
from llavaflow.stages.lmms_eval import LmmsEval
from llavaflow.stages.mix import Component, Mix
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.questions import Questions
from llavaflow.stages.synthesize import Synthesize
from llavaflow.stages.train import Train

CLIP = Pretrained(hub="openai/clip-vit-large-patch14-336")
VICUNA = Pretrained(hub="lmsys/vicuna-7b-v1.5")
VICUNA_13B = Pretrained(hub="lmsys/vicuna-13b-v1.5")
LLAMA_2 = Pretrained(hub="meta-llama/Llama-2-7b-chat-hf")
GATES = (*ENVIRONMENT, *DATA, *TRAINING)
ROWS_OF_PAIN = 33


@dataclass
class Case:
    """A recipe that passes every gate, its files, its machine and store; a trouble breaks one of them."""

    folder: Path
    recipe: Recipe
    machine: Machine
    store: ArtifactStore
    patch: pytest.MonkeyPatch

    def set(self, stage: str, **fields: object) -> None:
        self.recipe = self.recipe.replace({stage: fields})

    def stages(self, **stages: Any) -> None:
        self.recipe = replace(self.recipe, stages={**self.recipe.stages, **stages})

    def rewrite(self, change: Callable[[list[dict[str, Any]]], None]) -> None:
        """The records of the instructions, changed in place."""
        file = self.folder / "llava_v1_5_mix665k.json"
        rows = json.loads(file.read_text())
        change(rows)
        file.write_text(json.dumps(rows))

    def found(self) -> dict[str, list[Problem]]:
        """The gates that trip, warnings among them, with what they say."""
        preflight = Preflight(self.recipe, self.store, self.machine)
        told = {gate.__name__: list(gate(preflight)) for gate in GATES}
        return {name: problems for name, problems in told.items() if problems}


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """LLaVA-1.5 7B on two small files, with every kind of stage that a gate looks at, in a sound place."""
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "OPENAI_BASE_URL", "LLAVAFLOW_KERNELS", "LLAVAFLOW_TRACKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_gates.metadata, "requires", lambda name: ["click>=8"])
    monkeypatch.setattr(_gates, "PAGES", ())
    monkeypatch.setattr(_fetch, "interpreter", lambda: Path("python"))
    usage = _gates.shutil.disk_usage(".")
    monkeypatch.setattr(_gates.shutil, "disk_usage", lambda place: usage._replace(free=2**40))
    store = open_store(tmp_path / "store")
    return Case(tmp_path, _recipe(tmp_path), parse("a100-80g"), store, monkeypatch)


def _recipe(folder: Path) -> Recipe:
    Image.new("RGB", (64, 48), "teal").save(folder / "0.jpg")
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A wall."}]
    rows = [{"id": str(number), "image": "0.jpg", "conversations": turns} for number in range(600)]
    for name in ("llava_v1_5_mix665k.json", "blip_laion_cc_sbu_558k.json"):
        (folder / name).write_text(json.dumps(rows))
    (folder / "urls.parquet").touch()
    (folder / "eval" / "pope").mkdir(parents=True)
    (folder / "eval" / "images").mkdir()
    (folder / "eval" / "images" / "0.jpg").write_bytes((folder / "0.jpg").read_bytes())
    asked = {"question_id": 0, "image": "0.jpg", "text": "Is there a wall?", "category": "random"}
    (folder / "eval" / "pope" / "questions.jsonl").write_text(json.dumps(asked))
    captions = OwnData(file=folder / "blip_laion_cc_sbu_558k.json", images=folder, template="plain")
    instructions = OwnData(file=folder / "llava_v1_5_mix665k.json", images=folder, template="v1")
    models: dict[str, Any] = {"vision": CLIP, "language": VICUNA}
    pretrain = Train(
        data=captions, **models, template="plain", image_aspect="square", trainable=("mm_projector",),
        learning_rate=1e-3, global_batch=256, zero=2, batching="padded",
    )  # fmt: skip
    finetune = Train(
        data=instructions, **models, projector_from=pretrain, template="v1", image_aspect="pad",
        trainable=("mm_projector", "language_model"), learning_rate=2e-5, global_batch=128, zero=3, batching="grouped",
    )  # fmt: skip
    questions = Questions(folder=folder / "eval", benchmarks=("pope",))
    evaluate = Evaluate(model=finetune, questions=questions, benchmarks=("pope",), template="v1")
    parts = tuple(
        Component(name=part.name, source=part.source, data=folder, expected=part.expected) for part in MIX665K.parts
    )
    stages = {
        "mix": Mix(components=parts, strict=True),
        "download": Download(urls=folder / "urls.parquet"),
        "synthesize": Synthesize(data=folder),
        "captions": captions,
        "instructions": instructions,
        "pretrain": pretrain,
        "finetune": finetune,
        "questions": questions,
        "evaluate": evaluate,
    }
    return Recipe(name="gated", stages=stages)


def both_languages(case: Case, model: Pretrained) -> None:
    """Another language model in both trainings, as a recipe of its own would have it."""
    for stage in ("pretrain", "finetune"):
        case.set(stage, language=model)


def llama_3_with_vicunas_template(case: Case) -> None:
    case.patch.setenv("HF_TOKEN", "secret")
    both_languages(case, Pretrained(hub="meta-llama/Meta-Llama-3-8B-Instruct"))


def yi_with_vicunas_template(case: Case) -> None:
    both_languages(case, Pretrained(hub="NousResearch/Nous-Hermes-2-Yi-34B"))
    case.machine = parse("a100-80g:8x8")
    case.set("pretrain", zero=3)


def other_packages(case: Case) -> None:
    case.patch.setattr(_gates.metadata, "requires", lambda name: ["click>=99"])


def old_chip(case: Case) -> None:
    case.machine = replace(case.machine, kind="old", bf16=False, gpu_memory_gib=160)


def small_cards(case: Case) -> None:
    case.machine = parse("a100-40g:1x4")


def scheduler_in_deepspeeds_file(case: Case) -> None:
    shipped = case.folder / "deepspeed"
    shipped.mkdir()
    for number in (2, 3):
        body: dict[str, Any] = {"zero_optimization": {"stage": number}}
        body |= {"scheduler": {"type": "WarmupLR"}} if number == 3 else {}
        (shipped / f"zero{number}.json").write_text(json.dumps(body))
    case.patch.setattr(_gates_training, "files", lambda package: case.folder)


def tiles_from_a_checkpoint_without(case: Case) -> None:
    own_base(case, {"image_aspect_ratio": "anyres", "mm_vision_select_layer": -2})


def a_chat_model_of_another_family(case: Case) -> None:
    text = {"model_type": "llama", "vocab_size": 64064}
    own_base(case, {"model_type": "llava", "vision_feature_layer": -2, "text_config": text})


def no_llava(case: Case) -> None:
    own_base(case, {"model_type": "clip", "text_config": {}})


def own_base(case: Case, config: dict[str, Any]) -> None:
    (case.folder / "config.json").write_text(json.dumps(config))
    origin = Base(checkpoint=case.folder)
    # no projector of an earlier stage: it is in the checkpoint
    case.stages(base=origin)
    case.set("finetune", base=Pretrained(stage=origin, folder="model"), projector_from=None)


def published_weights(name: str) -> Callable[[Case], None]:
    """The finetuning goes on from a published checkpoint of the hub."""

    def start(case: Case) -> None:
        origin = Base(hub=name)
        case.stages(base=origin)
        case.set("finetune", base=Pretrained(stage=origin, folder="model"), projector_from=None)

    return start


def adapters_as_a_checkpoint(case: Case) -> None:
    for name in ("config.json", "adapter_config.json"):
        (case.folder / name).write_text("{}")
    origin = Base(checkpoint=case.folder)
    case.stages(base=origin)
    case.set("finetune", base=Pretrained(stage=origin, folder="model"), projector_from=None)


def adapters_without_a_base(case: Case) -> None:
    (case.folder / "adapter_config.json").write_text("{}")
    case.set("evaluate", model=Checkpoint(path=case.folder))


def tokenizer_of_another_model(case: Case) -> None:
    folder = case.folder / "vicuna-7b"
    folder.mkdir()
    tokens = {"added_tokens": [{"content": "<|im_end|>"}], "model": {"vocab": {"a": 0}}}
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    both_languages(case, Pretrained(path=folder))


def meta_file_for_the_captions(case: Case) -> None:
    row = {"id": "0", "image": "0.jpg", "url": "http://a.test/0", "blip_caption": "a wall"}
    (case.folder / "blip_laion_cc_sbu_558k_meta.json").write_text(json.dumps([row] * 600))
    case.set("captions", file=case.folder / "blip_laion_cc_sbu_558k_meta.json")


def part_missing(case: Case) -> None:
    mix = case.recipe.stages["mix"]
    assert isinstance(mix, Mix)
    case.set("mix", components=tuple(part for part in mix.components if part.name != "sharegpt"))


def another_count(case: Case) -> None:
    mix = case.recipe.stages["mix"]
    assert isinstance(mix, Mix)
    changed = (replace(mix.components[0], expected=122_712), *mix.components[1:])
    case.set("mix", components=changed)


def no_questions(case: Case) -> None:
    # MM-Vet lies under mmvet in upstream's documents and under mm-vet in its scripts
    (case.folder / "eval" / "pope").rename(case.folder / "eval" / "po-pe")


def no_picture_of_a_question(case: Case) -> None:
    (case.folder / "eval" / "images" / "0.jpg").unlink()


def variable(name: str, value: str) -> Callable[[Case], None]:
    return lambda case: case.patch.setenv(name, value)


def wandb_without_a_key(case: Case) -> None:
    case.patch.setattr(_trackers, "find_spec", lambda name: object())
    case.patch.delenv("WANDB_API_KEY", raising=False)
    case.patch.setenv("LLAVAFLOW_TRACKERS", "wandb")


def few_bits_without_their_package(case: Case) -> None:
    case.patch.setattr(_gates, "find_spec", lambda name: None)
    case.set("finetune", lora=replace(ADAPTERS, quantization=Quantization()), zero=2)


def few_bits_divided(case: Case) -> None:
    case.patch.setattr(_gates, "find_spec", lambda name: object())
    case.set("finetune", lora=replace(ADAPTERS, quantization=Quantization()), zero=3)


def taken_port(case: Case) -> None:
    probe = socket.socket()
    probe.bind(("127.0.0.1", 0))
    probe.listen()
    case.patch.setattr(_gates, "PAGES", (probe.getsockname()[1],))
    # closed when the patch is undone
    case.patch.setattr(case, "held", probe, raising=False)


def missing_harness(case: Case) -> None:
    case.patch.delenv("LLAVAFLOW_LMMS_EVAL", raising=False)
    case.patch.setenv("PATH", str(case.folder))
    case.patch.setattr(_lmms_run, "own_command", lambda: case.folder / "lmms-eval")
    case.stages(second=LmmsEval(checkpoint=case.recipe.stages["finetune"]))


def missing_img2dataset(case: Case) -> None:
    def refuse() -> Path:
        raise InputError("img2dataset has no place of its own.")

    case.patch.setattr(_fetch, "interpreter", refuse)


def backport(case: Case) -> None:
    folder = case.folder / "site-packages"
    folder.mkdir()
    (folder / "dataclasses.py").touch()
    case.patch.syspath_prepend(str(folder))


def store_on_a_file(case: Case) -> None:
    (case.folder / "file").touch()
    case.store = open_store(case.folder / "file" / "store")


def little_disk(case: Case) -> None:
    usage = _gates.shutil.disk_usage(".")
    case.patch.setattr(_gates.shutil, "disk_usage", lambda place: usage._replace(free=2**30))


def no_room_for_checkpoints(case: Case) -> None:
    usage = _gates.shutil.disk_usage(".")
    case.patch.setattr(_gates.shutil, "disk_usage", lambda place: usage._replace(free=2**34))


def record(**fields: object) -> Callable[[Case], None]:
    """The first record of the instructions with other fields."""
    return lambda case: case.rewrite(lambda rows: rows[0].update(fields))


def turns(question: str, answer: str) -> dict[str, object]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def setting(stage: str, **fields: object) -> Callable[[Case], None]:
    return lambda case: case.set(stage, **fields)


def gif(case: Case) -> None:
    Image.new("RGB", (64, 48), "teal").save(case.folder / "1.jpg", format="GIF")
    case.rewrite(lambda rows: rows[0].update(image="1.jpg"))


def corrupt(case: Case) -> None:
    whole = (case.folder / "0.jpg").read_bytes()
    (case.folder / "1437717772.jpg").write_bytes(whole[: len(whole) // 2])
    case.rewrite(lambda rows: rows[0].update(image="1437717772.jpg"))


def few_records(case: Case) -> None:
    case.rewrite(lambda rows: rows.__delitem__(slice(40, None)))


ADAPTERS = Lora(r=128, alpha=256)
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
    ("24 a rate for a tower that is frozen", setting("finetune", vision_lr=2e-6), "trainable", "vision_tower"),
    ("24 adapters on nothing", setting("pretrain", lora=ADAPTERS), "trainable", "language_model does not train"),
    ("25 another transformers", other_packages, "packages", "outside >=99"),
    ("26 bf16 on a chip without", old_chip, "precision", "has no bf16"),
    ("27 asked in another template", setting("evaluate", template="v0"), "evaluation", "template 'v0'"),
    ("29 a judge without a key", setting("evaluate", review=Judging(model="gpt-4")), "credentials", "ask gpt-4"),
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


def gated(case: Case) -> None:
    both_languages(case, LLAMA_2)
    case.set("finetune", template="llava_llama_2")
    case.set("evaluate", template="llava_llama_2")
    case.set("instructions", template="llava_llama_2")


def named_158k(case: Case) -> None:
    case.set("instructions", file=Path("llava_instruct_158k.json"))
    case.set("finetune", batching="padded")


def devices(case: Case, count: int) -> None:
    case.machine = parse(f"a100-80g:1x{count}")


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
