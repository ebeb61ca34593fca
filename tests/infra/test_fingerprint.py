"""Digests of outside folders: by the names and sizes of their files, and a plain message when they cannot be listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.infra.fingerprint import digest_outside


def test_a_folder_counts_by_names_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12")
    first = digest_outside(tmp_path)
    (tmp_path / "a").write_text("21")
    assert digest_outside(tmp_path) == first
    (tmp_path / "b").write_text("")
    assert digest_outside(tmp_path) != first


def test_a_folder_that_changes_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").write_text("1")
    is_file = Path.is_file

    def seen_then_deleted(self: Path) -> bool:
        found = is_file(self)
        self.unlink()
        return found

    monkeypatch.setattr(Path, "is_file", seen_then_deleted)
    with pytest.raises(InputError, match="changed while it was being listed.*No such file.*gone"):
        digest_outside(tmp_path)
