"""A recipe that passes every gate of `pipeline check`, and the ways to break one thing in it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llavaflow.datasets._mixture import MIX665K
from llavaflow.infra.errors import InputError
from llavaflow.infra.machine import Machine, parse
from llavaflow.infra.store import ArtifactStore, open_store
from llavaflow.models.lora import Lora
from llavaflow.models.quantization import Quantization
from llavaflow.pipelines import _gates, _gates_training
from llavaflow.pipelines._gates import ENVIRONMENT, Preflight, Problem
from llavaflow.pipelines._gates_data import DATA
from llavaflow.pipelines._gates_training import TRAINING
from llavaflow.pipelines._recipe import Recipe
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
from llavaflow.stages.zoo_weights import ZooWeights

CLIP = Pretrained(hub="openai/clip-vit-large-patch14-336")
VICUNA = Pretrained(hub="lmsys/vicuna-7b-v1.5")
VICUNA_13B = Pretrained(hub="lmsys/vicuna-13b-v1.5")
LLAMA_2 = Pretrained(hub="meta-llama/Llama-2-7b-chat-hf")
GATES = (*ENVIRONMENT, *DATA, *TRAINING)
ADAPTERS = Lora(r=128, alpha=256)


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


def sound_recipe(folder: Path) -> Recipe:
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


def projector_file(weight: tuple[int, ...], bias: tuple[int, ...]) -> Callable[[Case], None]:
    """The published projector from a file of one's own, with one layer of these shapes."""

    def give(case: Case) -> None:
        file = case.folder / "mm_projector.bin"
        shapes = {"weight": weight, "bias": bias}
        torch.save({f"model.mm_projector.{key}": torch.zeros(shape) for key, shape in shapes.items()}, file)
        name = "llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5"
        case.recipe = case.recipe.swap({"pretrain": ZooWeights(name=name, folder=file)})

    return give


def damaged_checkpoint(case: Case) -> None:
    own_base(case, {})
    (case.folder / "config.json").write_text('{"model_type": "lla')


def damaged_tokenizer(case: Case) -> None:
    (case.folder / "vicuna-7b").mkdir()
    (case.folder / "vicuna-7b" / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1")
    both_languages(case, Pretrained(path=case.folder / "vicuna-7b"))


def a_question_that_is_none(case: Case) -> None:
    (case.folder / "eval" / "pope" / "questions.jsonl").write_text('["Is there a wall?"]')


def a_judge_without_a_key(case: Case) -> None:
    case.set("evaluate", review=Judging(model="gpt-4", benchmarks=()))


def llama_3s_template_on_vicunas_checkpoint(case: Case) -> None:
    published_weights("liuhaotian/llava-v1.5-7b")(case)
    case.set("finetune", template="llava_llama_3")


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
