"""Opening a checkpoint of any format gives the model that is in it, and says what is missing where none is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.models import lora as adapters
from llavaflow.models.checkpoint import convert, merge_lora
from llavaflow.models.llava import Design, build, load, save
from llavaflow.models.lora import Lora
from llavaflow.models.opening import open_checkpoint


@pytest.fixture(scope="module")
def whole(toy_foundation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    save(build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design()), folder)
    return folder


def weights(llava: Any) -> dict[str, Any]:
    return {name: value.float() for name, value in llava.model.state_dict().items()}


def same(first: Any, second: Any) -> bool:
    left, right = weights(first), weights(second)
    return left.keys() == right.keys() and all(bool((left[name] == right[name]).all()) for name in left)


def test_both_formats_give_the_same_model(whole: Path, toy_foundation: Path, tmp_path: Path) -> None:
    convert(whole, tmp_path / "original", "original", None)
    found = open_checkpoint(tmp_path / "original", vision=str(toy_foundation / "clip"))
    assert same(found, open_checkpoint(whole, precision="float32"))


def test_an_adapter_is_merged_into_its_base(whole: Path, tmp_path: Path) -> None:
    import torch

    model = load(str(whole))
    settings = Lora(r=2, alpha=4, dropout=0.0)
    adapters.inject(model, settings, seed=0)
    with torch.no_grad():
        for name, value in model.model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.1)
    adapters.write(tmp_path / "lora", model.model.state_dict(), settings, model)
    merge_lora(tmp_path / "lora", whole, tmp_path / "merged", None)
    found = open_checkpoint(tmp_path / "lora", base=whole)
    assert same(found, load(str(tmp_path / "merged"))) and not same(found, load(str(whole)))
    with pytest.raises(InputError, match="name what it was trained on"):
        open_checkpoint(tmp_path / "lora")


def test_a_projector_alone_answers_nothing(whole: Path, tmp_path: Path) -> None:
    convert(whole, tmp_path / "projector", "projector", None)
    with pytest.raises(InputError, match="no whole model"):
        open_checkpoint(tmp_path / "projector")
