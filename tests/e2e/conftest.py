"""One whole run of the pipeline at its smallest size, shared by every test here: every component is the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECIPE = "llava15-micro"
Pipeline = Callable[..., Any]


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "llavaflow.pipelines", *args]


def pipeline(*args: str, cwd: Path, code: int = 0, timeout_s: int = 900) -> Any:
    """Run the command with --json, expect its exit code, and return the one document on its stdout."""
    environment = {**os.environ, "OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""}
    done = subprocess.run(
        command(*args, "--json"), cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == code, f"{args} ended with {done.returncode}\n{done.stderr[-4000:]}"
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder a user would stand in; its store is `./.llavaflow`."""
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="session")
def first_run(home: Path) -> Any:
    return pipeline("run", RECIPE, cwd=home)


@pytest.fixture(scope="session")
def artifacts(first_run: Any) -> dict[str, Path]:
    """The folder of every stage's artifact."""
    return {stage["name"]: Path(stage["uri"]) for stage in first_run["stages"]}
