"""Foundation: three models that load like published ones; a kill changes nothing; gates speak in numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llavaflow.datasets.scenes import WORDS
from llavaflow.infra.artifact import Artifact
from llavaflow.infra.errors import StageFailed
from llavaflow.infra.store import open_store
from llavaflow.stages import _foundation_fit
from llavaflow.stages._foundation_fit import fit
from llavaflow.stages.foundation import Foundation, Gates
from llavaflow.stages.world import World
from llavaflow.tests.stages.conftest import Bench

OPEN = Gates(clip_retrieval=0, mismatch_recall=0, blip_accuracy=0, max_language_loss=None)
WORLD = World(
    coco_images=20, gqa_images=10, vg_images=10, ocrvqa_books=10, textcaps_images=4, sharegpt_chats=10, urls=60,
    exam_questions=6,
)  # fmt: skip
SMALL = Foundation(
    world=WORLD, image_size=48, patch=12, vision_hidden=32, vision_layers=2, clip_steps=3, clip_batch=6, blip_steps=3,
    blip_batch=4, language_hidden=32, language_layers=1, language_steps=3, language_batch=4, vocabulary=700, gates=OPEN,
)  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(store=open_store(tmp_path_factory.mktemp("foundation")))
    bench.run(WORLD)
    return bench


@pytest.fixture(scope="module")
def built(bench: Bench) -> Artifact:
    return bench.run(SMALL)


@pytest.fixture(scope="module")
def folder(bench: Bench, built: Artifact) -> Path:
    return bench.path(built)


def test_the_facts_are_the_measures_that_are_gated(built: Artifact) -> None:
    for name in ("clip_retrieval", "mismatch_recall", "matched_kept", "blip_accuracy"):
        assert 0 <= built.facts[name] <= 1
    assert 0 < built.facts["language_loss"] < 10


def test_clip_loads_as_a_published_one_and_needs_no_crop(folder: Path) -> None:
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(folder / "clip"), CLIPProcessor.from_pretrained(folder / "clip")
    wide = Image.new("RGB", (96, 48), "red")
    inputs = processor(images=[wide], text=["a red circle", "a blue star and a green sign"], return_tensors="pt",
                       padding=True)  # fmt: skip
    assert inputs.pixel_values.shape == (1, 3, 48, 48)
    assert model(**inputs).logits_per_image.shape == (1, 2)


def test_clip_reads_a_caption_to_its_end(folder: Path) -> None:
    """Texts that differ in their last word only must not look the same: CLIP pools at the end token."""
    from transformers import CLIPModel, CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(folder / "clip"), CLIPTokenizer.from_pretrained(folder / "clip")
    inputs = tokenizer(
        ["a red circle and a red star", "a red circle and a red cross"], return_tensors="pt", padding=True
    )
    one, other = model.get_text_features(**inputs).pooler_output
    assert not torch.allclose(one, other, atol=1e-4)


def test_blip_loads_as_a_published_one_and_captions(folder: Path) -> None:
    from PIL import Image
    from transformers import BlipForConditionalGeneration, BlipProcessor

    model = BlipForConditionalGeneration.from_pretrained(folder / "blip")
    processor = BlipProcessor.from_pretrained(folder / "blip")
    inputs = processor(images=[Image.new("RGB", (72, 72), "red")], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=5)
    assert isinstance(processor.batch_decode(out, skip_special_tokens=True)[0], str)


def test_the_language_model_loads_with_its_tokenizer(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "language")
    tokenizer = AutoTokenizer.from_pretrained(folder / "language")
    text = "USER: <image>\nWhere is it? ASSISTANT: [0.12, 0.3, 1.0, 0.77]</s>"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 1
    assert tokenizer.decode(ids) == f"<s>{text}"
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)


def test_digits_are_split_and_the_start_of_a_coordinate_is_one_token(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "language")
    assert [tokenizer.decode([token]) for token in tokenizer("0.12, 0.35").input_ids[1:]] == [
        "0.", "1", "2", ", 0.", "3", "5",
    ]  # fmt: skip


def test_a_gate_that_is_not_met_fails_with_the_numbers() -> None:
    facts = {"clip_retrieval": 0.4, "mismatch_recall": 0.95, "blip_accuracy": 0.8, "language_loss": 1.5}
    with pytest.raises(StageFailed, match="clip_retrieval is 0.4, needs at least 0.5; language_loss is 1.5") as failure:
        Gates().check(facts)
    assert "mismatch_recall" not in str(failure.value)
    Gates(clip_retrieval=0.4, max_language_loss=None).check(facts)


class Line:
    """A part that fits a line; it can be told to die at a step."""

    steps, learning_rate = 20, 0.1

    def __init__(self, dies_at: int | None = None) -> None:
        self.model = torch.nn.Linear(2, 1)
        self.dies_at = dies_at

    def loss(self, step: int) -> torch.Tensor:
        if step == self.dies_at:
            raise KeyboardInterrupt
        given = torch.tensor([[1.0, step], [step, 2.0]]) / 20
        return (self.model(given).flatten() - given.sum(1)).square().mean()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), folder / "weights.pt")

    def measure(self) -> dict[str, Any]:
        return {}


def weights(root: Path, *deaths: int) -> torch.Tensor:
    root.mkdir()
    for death in deaths:
        with pytest.raises(KeyboardInterrupt):
            fit("line", lambda death=death: Line(death), 3, root, root, lambda step, note: None)
    fit("line", Line, 3, root, root, lambda step, note: None)
    found: torch.Tensor = torch.load(root / "line/weights.pt", weights_only=True)["weight"]
    return found


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_foundation_fit, "CHECKPOINT_EVERY", 4)
    assert torch.equal(weights(tmp_path / "killed", 9, 18), weights(tmp_path / "whole"))


def test_a_finished_part_is_not_trained_again(tmp_path: Path) -> None:
    weights(tmp_path / "first")
    done = fit("line", lambda: pytest.fail("built again"), 3, tmp_path / "first", tmp_path / "first", lambda *_: None)
    assert done["loss"] >= 0


def test_the_tokenizers_are_the_same_each_time_they_are_learned() -> None:
    """A trainer's hash maps have another order in each call: seen as other merges, and so as another CLIP."""
    from llavaflow.stages._foundation_words import clip_tokenizer, language_tokenizer

    texts = [f"A {colour} {shape}, left of {number}." for colour in WORDS for shape in WORDS for number in range(3)]
    for learn in (clip_tokenizer, language_tokenizer):
        assert len({learn(texts, 600).backend_tokenizer.to_str() for _ in range(4)}) == 1
