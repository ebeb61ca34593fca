"""For the tests of the sources: the small raw folders, and the reader that counts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def raw() -> Any:
    """The module `raw_folders`, which lies next to this file."""
    spec = importlib.util.spec_from_file_location("raw_folders", Path(__file__).with_name("raw_folders.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["raw_folders"] = module
    spec.loader.exec_module(module)
    return module
