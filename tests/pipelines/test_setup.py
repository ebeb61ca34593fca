"""`pipeline setup`: img2dataset has an environment of its own, and nothing of it is in ours."""

from __future__ import annotations

import importlib.util
import subprocess
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError, LlavaflowError
from llavaflow.pipelines._cli.setup import STAMP, install
from llavaflow.stages._fetch import interpreter

REQUIREMENTS = files("llavaflow.infra").joinpath("img2dataset_requirements.txt").read_text()


def test_it_installs_once_and_says_so(tmp_path: Path) -> None:
    home = tmp_path / "env"
    assert install(home, b"# nothing\n") and (home / "bin/python").exists()
    marker = home / "kept"
    marker.touch()
    assert not install(home, b"# nothing\n") and marker.exists()


def test_a_failed_install_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(LlavaflowError, match="Run `pipeline setup` again"):
        install(tmp_path / "env", b"img2dataset==0.0.0\n")
    assert not (tmp_path / "env" / STAMP).exists()


def test_every_version_is_pinned() -> None:
    lines = [line for line in REQUIREMENTS.splitlines() if line and not line.startswith("#")]
    assert "img2dataset==1.47.0" in lines and all(line.count("==") == 1 for line in lines)


def test_what_would_break_us_is_only_over_there() -> None:
    ours = {distribution.metadata["Name"].lower() for distribution in distributions()}
    assert not ours & {"img2dataset", "dataclasses", "albumentations"}
    assert "site-packages" not in str(importlib.util.find_spec("dataclasses").origin)
    probe = "import importlib.metadata as m; print(m.version('img2dataset'), m.version('webdataset'))"
    there = subprocess.run([interpreter(), "-c", probe], capture_output=True, text=True, check=True)
    assert there.stdout.split() == ["1.47.0", "0.2.111"]


def test_a_missing_environment_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVAFLOW_IMG2DATASET", str(tmp_path))
    with pytest.raises(InputError, match="Run `pipeline setup` once"):
        interpreter()
