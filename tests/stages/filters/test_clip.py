"""The filters that look through a model: their numbers are those of the model, and near things are near."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from llavaflow.datasets._shards import ImageTable, ShardWriter
from llavaflow.infra.errors import InputError
from llavaflow.stages._foundation_words import clip_tokenizer
from llavaflow.stages._pairs import Pair
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.filters._record_filter import Measured, Picture
from llavaflow.stages.filters.classifier import Classifier
from llavaflow.stages.filters.clip_score import ClipScore
from llavaflow.stages.filters.contamination import Contamination
from llavaflow.stages.filters.semantic_duplicates import SemanticDuplicates

CAPTIONS = {"a": "a red circle", "b": "a blue square", "c": "a red circle"}


def encoded(colour: tuple[int, int, int], quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    """Red, blue, and red again in other bytes."""
    images = {"a": encoded((200, 0, 0)), "b": encoded((0, 0, 200)), "c": encoded((200, 2, 0), 60)}
    with ShardWriter(tmp_path) as shards:
        digests = {id: shards.add(f"{id}.jpg", data, {}, width=40, height=40).sha256 for id, data in images.items()}
    return [
        Picture(
            Pair(id=id, image=f"{id}.jpg", caption=text, url=None, width=40, height=40, sha256=digests[id]),
            ImageTable(tmp_path),
        )
        for id, text in CAPTIONS.items()
    ]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = clip_tokenizer(CAPTIONS.values(), 16)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = {**sizes, **tokens, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_clip_scores_are_the_cosines_of_the_model(clip: Path, pictures: list[Picture]) -> None:
    import torch
    from transformers import CLIPModel, CLIPProcessor

    measure = ClipScore(clip=Pretrained(path=clip), threshold=0.0).measurer(clip=str(clip))
    scores = [signal["score"] for signal in measure(pictures)]
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    inputs = processor(
        images=[picture.pixels for picture in pictures], text=list(CAPTIONS.values()), return_tensors="pt", padding=True
    )
    with torch.no_grad():
        logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    assert scores == pytest.approx(logits.diagonal().tolist(), abs=2e-5)
    assert len(set(scores)) > 1


def test_clip_needs_exactly_one_limit(clip: Path) -> None:
    for fields in ({}, {"threshold": 0.2, "fraction": 0.5}):
        with pytest.raises(InputError, match="exactly one of threshold and fraction"):
            ClipScore(clip=Pretrained(path=clip), **fields).prepare(None)
    for fraction in (0, 1.5, 30, -0.3):
        with pytest.raises(InputError, match="no share of the pairs"):
            ClipScore(clip=Pretrained(path=clip), fraction=fraction).prepare(None)


def test_semantic_duplicates_by_the_model_s_eyes(clip: Path, pictures: list[Picture]) -> None:
    rule = SemanticDuplicates(clip=Pretrained(path=clip), epsilon=0.001)
    signals = rule.measurer(clip=str(clip))(pictures)
    records = [
        Measured(pair=picture.pair, signals={rule.name: signal})
        for picture, signal in zip(pictures, signals, strict=True)
    ]
    dropped = dict(rule.choose(records))
    assert len(dropped) == 1 and set(dropped) < {"a", "c"} and set(dropped.values()) == {"semantic-duplicate"}


def test_any_classifier_by_one_of_its_labels(tmp_path: Path, pictures: list[Picture]) -> None:
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    labels = {0: "Safe", 1: "Not Safe"}
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16, id2label=labels))
    with torch.no_grad():
        model.classifier.weight.mul_(50)
    model.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    rule = Classifier(model=Pretrained(path=tmp_path / "vit"), label="not safe", drop_above=0.5)
    signals = rule.measurer(model=str(tmp_path / "vit"))(pictures)
    assert len({signal["score"] for signal in signals}) > 1 and all(0 <= signal["score"] <= 1 for signal in signals)
    assert rule.verdict({"score": 0.6}) == "classified-not-safe" and rule.verdict({"score": 0.4}) is None
    aesthetic = Classifier(model=Pretrained(path=tmp_path / "vit"), label="safe", drop_below=0.5)
    assert aesthetic.verdict({"score": 0.4}) == "not-classified-safe"
    with pytest.raises(InputError, match="unknown label 'nude'"):
        Classifier(model=Pretrained(path=tmp_path), label="nude", drop_above=0.5).measurer(model=str(tmp_path / "vit"))
    with pytest.raises(InputError, match="drop_above or drop_below"):
        Classifier(model=Pretrained(path=tmp_path), label="nude").prepare(None)


def test_contamination_by_bytes_and_by_looks(tmp_path: Path, pictures: list[Picture]) -> None:
    folder = tmp_path / "eval"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(encoded((0, 0, 198), 80))
    rule = Contamination(images=folder)
    signals = rule.measurer(**rule.prepare(None))(pictures)
    assert [rule.verdict(signal) for signal in signals] == [None, "in-benchmark", None]
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 cut off")
    (folder / "dead.jpg").symlink_to("nowhere")
    broken = rule.measurer(**rule.prepare(SimpleNamespace(log=logging.getLogger())))(pictures)
    assert broken == signals, "a picture that does not decode stands for its bytes alone"
    with pytest.raises(InputError, match="nothing to compare with"):
        Contamination(images=tmp_path / "nowhere").prepare(None)
    assert np.array([signal["seen"] for signal in signals]).sum() == 1
