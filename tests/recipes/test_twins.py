"""Every full-size recipe trains: its twin, the same settings on toy models, takes a few real steps of every stage.

A twin is made by a function, so that no recipe can be forgotten. What it changes is what a box of two cores cannot do:
the models, their precision, the data, the batch, the number of epochs. Recipes whose twins are equal share one run.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from llavaflow.datasets._shards import ShardWriter
from llavaflow.infra import ray
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.identity import Identity, InputRef
from llavaflow.infra.machine import Machine
from llavaflow.infra.store import ArtifactStore, open_store
from llavaflow.models import projector
from llavaflow.pipelines._catalogue import find_recipe, recipe_names
from llavaflow.pipelines._gates_training import _family
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages._stage import Stage
from llavaflow.stages.train import Train

NAMES = [name for name in recipe_names() if name not in ("llava15-tiny", "llava15-micro")]
SAMPLES, BATCH, MOST_EPOCHS = 24, 8, 2
# transformers and we agree about the tiles of a square; of some sizes it makes other counts
SQUARE = Image.new("RGB", (56, 56), "green")


@dataclass(frozen=True, kw_only=True)
class Pictures(Stage):
    """Training data that a test writes by hand: captions, or questions of which every fourth shows no picture."""

    kind: ClassVar[Kind] = "mixture"
    captions: bool

    def run(self, ctx: RunContext) -> Artifact:
        rows = []
        with ShardWriter(ctx.out) as shards:
            for number in range(SAMPLES):
                row: dict[str, Any] = {"id": str(number)}
                shown = self.captions or number % 4 > 0
                if shown:
                    row["image"] = f"{number}.png"
                    shards.add(row["image"], _png(20 + number), {}, width=20 + number, height=24)
                question = "<image>\nWhat colour is it?" if shown else "What colour is grass?"
                row["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": "Green."}]
                rows.append(row)
        (ctx.out / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return ctx.finish({"samples": SAMPLES})


def _png(width: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, 24), "green").save(stream, "PNG")
    return stream.getvalue()


def twins(recipe: Recipe, parts: Path, language: Callable[[str], Path]) -> dict[str, Train]:
    """The training stages of a recipe at toy size, each on top of the twin of the one before it, on a language model
    of the recipe's own family."""
    made: dict[str, Train] = {}

    def twin(stage: Train) -> Train:
        first = stage.trainable == ("mm_projector",)
        whole = stage.base if stage.base is not None and isinstance(stage.base.stage, Train) else None
        before = stage.projector_from
        return dataclasses.replace(
            stage,
            data=Pictures(captions=first),
            vision=None if whole else Pretrained(path=parts / ("convnext" if stage.added_stage else "clip")),
            language=None if whole else Pretrained(path=language(_family(stage) or "llama")),
            base=dataclasses.replace(whole, stage=made[_name(recipe, whole.stage)]) if whole else None,
            projector_from=made[_name(recipe, before)] if before is not None else None,
            global_batch=BATCH,
            epochs=min(stage.epochs, MOST_EPOCHS),
            precision="float32",
            # four bits need a GPU
            lora=dataclasses.replace(stage.lora, quantization=None) if stage.lora else None,
            image_size_px=64 if stage.image_size_px else None,
            added_stage=(1, 32) if stage.added_stage else None,
            # the toy tower's tile is a twelfth of CLIP's
            pinpoints=tuple((width // 12, height // 12) for width, height in stage.pinpoints),
        )

    for name, stage in recipe.stages.items():
        if isinstance(stage, Train):
            made[name] = twin(stage)
    return made


def _name(recipe: Recipe, stage: Stage | None) -> str:
    assert stage is not None, "the twin of a stage that is not there"
    return recipe.name_of(stage)


@dataclass
class Runs:
    """What was trained so far, by the stage that made it."""

    store: ArtifactStore
    built: dict[Stage, Artifact] = field(default_factory=dict)

    def run(self, stage: Stage) -> Artifact:
        if stage not in self.built:
            for source in stage.inputs().values():
                self.run(source)
            self.built[stage] = stage.run(self._context(stage))
        return self.built[stage]

    def _context(self, stage: Stage) -> RunContext:
        inputs = {path: self.built[source] for path, source in stage.inputs().items()}
        refs = {
            path: InputRef(kind=item.kind, stage=item.stage, fingerprint=item.fingerprint)
            for path, item in inputs.items()
        }
        identity = Identity(type=stage.type_name(), settings=stage.settings(), inputs=refs, outside={})
        fingerprint = identity.fingerprint(0)
        scratch = self.store.scratch(fingerprint)
        return RunContext(
            store=self.store,
            machine=Machine(kind="cpu", cores=2),
            recipe="twin",
            run_id="run",
            stage=stage.type_name().lower(),
            kind=stage.kind,
            fingerprint=fingerprint,
            out=scratch.out,
            work=scratch.work,
            inputs={source: self.built[source] for source in stage.inputs().values()},
            identity=identity,
        )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    yield Runs(store=open_store(tmp_path_factory.mktemp("store")))
    ray.shutdown()


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_keeps_the_settings_of_its_recipe(name: str, tmp_path: Path) -> None:
    recipe = find_recipe(name)
    changed = {"data", "vision", "language", "base", "projector_from", "global_batch", "epochs", "precision"}
    changed |= {"pinpoints", "image_size_px", "added_stage"}
    for stage, twin in twins(recipe, tmp_path, lambda family: tmp_path / family).items():
        original = recipe.stages[stage].fields()
        if original["lora"] is not None and original["lora"].quantization is not None:
            changed |= {"lora"}
        assert {key for key, value in twin.fields().items() if value != original[key]} <= changed


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_twin_trains_every_stage(
    name: str, runs: Runs, toy_foundation: Path, toy_language: Callable[[str], Path]
) -> None:
    for stage in twins(find_recipe(name), toy_foundation, toy_language).values():
        artifact = runs.run(stage)
        assert artifact.facts["steps"] == SAMPLES // BATCH * stage.epochs
        assert artifact.facts["samples"] == SAMPLES and artifact.facts["dropped"] == {}
        assert artifact.facts["last_loss"] > 0
        folder = Path(artifact.uri)
        marked = projector.read(folder / projector.FILE).embeddings is not None
        assert marked == stage.im_start_end
        if (folder / "model").exists():
            assert plain_answer(folder / "model") == own_answer(folder / "model")


def plain_answer(folder: Path) -> list[int]:
    """Tokens by transformers alone: its processor, the chat template in it, and the code that lies in the folder."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    content = [{"type": "image"}, {"type": "text", "text": "What colour is it?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    bos = {"add_special_tokens": False} if inputs.startswith("<|begin_of_text|>") else {}
    batch = processor(images=SQUARE, text=inputs, return_tensors="pt", **bos)
    said = model.generate(**batch, do_sample=False, max_new_tokens=8)[0, batch["input_ids"].shape[1] :]
    return [int(token) for token in said]


def own_answer(folder: Path) -> list[int]:
    from llavaflow.models import generate, llava

    model = llava.load(str(folder))
    turns = [("human", "<image>\nWhat colour is it?")]
    ids = generate.prompt_ids(model, llava.template_of(model.model.config), turns, [SQUARE.size])
    asked = generate.Question(ids, generate.pixels(model, SQUARE), SQUARE.size)
    return next(iter(generate._generate(model, [asked], [model.tokenizer.eos_token_id], 8)))
