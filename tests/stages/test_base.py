"""A checkpoint from outside counts by its content: two of one shape are two."""

from __future__ import annotations

from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.infra.store import open_store
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
