"""The wheel holds every tracked file of the five rooms, works elsewhere, and leaves Hugging Face's `datasets` alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from llavaflow.stages import _trackers

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("pipelines", "stages", "datasets", "models", "infra")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(target)]
    subprocess.run([*command, str(ROOT)], check=True)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and our dependencies, but without the editable link to this checkout."""
    home = tmp_path_factory.mktemp("elsewhere")
    venv.create(home, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    # a path named in a .pth file is searched, its own .pth files (the editable link) are not read
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    return home


def run(home: Path, *args: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(home / "bin" / "python"), *args], cwd=home, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_the_wheel_holds_every_tracked_file_of_the_rooms(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tracked = {f"llavaflow/{name}" for name in listed.splitlines()}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("llavaflow/")}
    assert tracked - packed == set()


def test_the_command_works_from_the_wheel_alone(elsewhere: Path) -> None:
    out = run(elsewhere, "-c", "import llavaflow.pipelines._cli.main as m; print(m.__file__)")
    assert out.startswith(str(elsewhere))
    assert "llava15-tiny" in run(elsewhere, "-m", "llavaflow.pipelines", "list", "recipes")


def test_what_a_message_says_to_install_is_there_to_be_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    sources = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"llavaflow\[(\w+)\]", path.read_text("utf-8"))}
    # kernels and trackers fill their own names in
    assert named | {"flash", "liger", *_trackers._OPEN} <= set(extras)


def test_hugging_face_datasets_imports_beside_it(elsewhere: Path) -> None:
    code = "import llavaflow.datasets._sample, datasets; print(callable(datasets.load_dataset), datasets.__file__)"
    loaded, _, origin = run(elsewhere, "-c", code).partition(" ")
    assert loaded == "True"
    assert not origin.startswith(str(elsewhere))


def test_hugging_face_datasets_is_not_shadowed_from_the_checkout() -> None:
    code = "import datasets; print(callable(datasets.load_dataset))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert out.strip() == "True"
