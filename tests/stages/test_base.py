"""A checkpoint from outside counts by its content: two of one shape are two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from llavaflow.infra.errors import InputError
from llavaflow.infra.store import open_store
from llavaflow.models.checkpoint import convert
from llavaflow.models.llava import Design, build, load, save
from llavaflow.stages._identity import resolve
from llavaflow.stages.base import Base, find_checkpoint


def _fingerprint(folder: Path, store: Path) -> str:
    return resolve({"base": Base(checkpoint=folder)}, open_store(store), recipe="r")["base"].fingerprint


def _checkpoint(folder: Path, weights: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llava"}')
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_two_checkpoints_of_one_shape_have_two_fingerprints(tmp_path: Path) -> None:
    one = _checkpoint(tmp_path / "a" / "model", b"1234")
    other = _checkpoint(tmp_path / "b" / "model", b"1235")
    same = _checkpoint(tmp_path / "c" / "model", b"1234")
    store = tmp_path / "store"
    assert _fingerprint(one, store) != _fingerprint(other, store)
    assert _fingerprint(one, store) == _fingerprint(same, store)


def test_a_folder_without_a_checkpoint_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"no checkpoint at .* \(found: notes.txt\)"):
        find_checkpoint(tmp_path)


@pytest.fixture
def hf(toy_foundation: Path, tmp_path: Path) -> Path:
    save(build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(), seed=5), tmp_path / "hf")
    return tmp_path / "hf"


def test_the_original_format_is_converted_on_the_way(bench: Any, toy_foundation: Path, hf: Path) -> None:
    original = hf.with_name("original")
    convert(hf, original, "original", None)
    shutil.copytree(toy_foundation / "clip", original / "tower")
    config = json.loads((original / "config.json").read_text("utf-8"))
    (original / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "tower"}), "utf-8")
    taken, brought = (bench.run(Base(checkpoint=folder)) for folder in (hf, original))
    one, two = (load(str(bench.path(artifact) / "model")).model.state_dict() for artifact in (taken, brought))
    assert set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(InputError, match="original LLaVA format.*pipeline checkpoint convert"):
        load(str(original))


def test_what_no_training_can_go_on_from_is_refused(bench: Any, toy_foundation: Path, hf: Path) -> None:
    with pytest.raises(InputError, match="a 'clip' model is no LLaVA"):
        bench.run(Base(checkpoint=toy_foundation / "clip"))
    (hf / "adapter_config.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match="is an adapter.*merge-lora"):
        bench.run(Base(checkpoint=hf))
