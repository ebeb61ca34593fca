"""A worker's failure reaches the driver as itself, also when the disk is full; a bug keeps its traceback."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.errors import StageFailed
from llavaflow.stages import _training_failure as failure


def _fail(work: Path, error: Exception) -> None:
    failure.prepare(work)
    try:
        raise error
    except Exception as raised:
        failure.leave(work, raised, rank=1)


def test_our_own_failure_comes_as_itself(tmp_path: Path) -> None:
    _fail(tmp_path, StageFailed("image a.jpg is broken"))
    assert failure.has_failed(tmp_path)
    with pytest.raises(StageFailed, match="^image a.jpg is broken$"):
        failure.raise_failure(tmp_path)


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    _fail(tmp_path, ZeroDivisionError("division by zero"))
    with pytest.raises(RuntimeError, match="(?s)test_training_failure.*ZeroDivisionError"):
        failure.raise_failure(tmp_path)


def test_a_full_disk_is_told_however_it_is_wrapped(tmp_path: Path) -> None:
    wrapped = RuntimeError("PytorchStreamWriter failed writing file")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    _fail(tmp_path, wrapped)
    with pytest.raises(StageFailed, match="the disk is full"):
        failure.raise_failure(tmp_path)


def test_there_is_room_to_tell_it_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(path: Path, *args: Any) -> int:
        if (tmp_path / failure.ROOM).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *args)

    monkeypatch.setattr(Path, "write_text", full)
    _fail(tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StageFailed, match="the disk is full"):
        failure.raise_failure(tmp_path)


def test_nothing_is_raised_after_a_good_run_or_a_new_beginning(tmp_path: Path) -> None:
    _fail(tmp_path, StageFailed("an earlier try"))
    failure.prepare(tmp_path)
    failure.raise_failure(tmp_path)
    assert list(tmp_path.iterdir()) == []
