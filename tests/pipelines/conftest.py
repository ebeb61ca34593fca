"""The toy recipe, a store in a temporary folder, and the command line as a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.store import ArtifactStore, open_store
from llavaflow.pipelines._catalogue import find_recipe
from llavaflow.pipelines._cli.main import main
from llavaflow.pipelines._recipe import Recipe

TOY = Path(__file__).with_name("toy.py")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a command said: its exit code, its JSON document if it wrote one, and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Told]


@pytest.fixture
def pipeline(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`pipeline(...)` runs the command line in this process on a store of this test."""
    monkeypatch.setenv("LLAVAFLOW_STORE", str(tmp_path / "store"))

    def run(*args: object) -> Told:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return Told(code=code, out=out, err=err)

    return run


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(tmp_path / "store")


@pytest.fixture
def toy() -> Recipe:
    return find_recipe(str(TOY))
