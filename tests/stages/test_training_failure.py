"""A worker's failure reaches the driver as itself, also when the disk is full; what may pass is tried again."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.errors import BudgetExceeded, InputError, StageFailed
from llavaflow.stages import _training_failure as failure


def _fail(work: Path, error: Exception) -> None:
    failure.prepare(work)
    try:
        raise error
    except Exception as raised:
        failure.leave(work, raised, step=0, earlier=None)


def test_our_own_failure_comes_as_itself(tmp_path: Path) -> None:
    _fail(tmp_path, StageFailed("image a.jpg is broken"))
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


@pytest.mark.parametrize(
    ("error", "raised"),
    [(InputError("no"), InputError), (StageFailed("no"), StageFailed), (BudgetExceeded("no"), StageFailed)],
)
def test_an_error_of_the_project_is_final_and_comes_back_as_itself(
    tmp_path: Path, error: Exception, raised: type[Exception]
) -> None:
    failure.leave(tmp_path, error, step=4, earlier=None)
    left = failure.read(tmp_path)
    assert left is not None and left.final
    with pytest.raises(raised, match="^no$"):
        failure.raise_failure(tmp_path)


def test_another_exception_is_tried_again_until_it_comes_twice_without_progress(tmp_path: Path) -> None:
    finals = []
    for step in (0, 2, 2):
        earlier = failure.read(tmp_path)
        # two workers of one try see the same broken connection
        for _ in range(2):
            failure.leave(tmp_path, RuntimeError("connection closed"), step=step, earlier=earlier)
        left = failure.read(tmp_path)
        assert left is not None
        finals.append(left.final)
    assert finals == [False, False, True]
    with pytest.raises(RuntimeError, match="connection closed"):
        failure.raise_failure(tmp_path)


def test_the_reason_is_not_covered_by_what_followed_from_it(tmp_path: Path) -> None:
    failure.leave(tmp_path, StageFailed("the loss is nan"), step=0, earlier=None)
    failure.leave(tmp_path, RuntimeError("connection closed"), step=0, earlier=None)
    with pytest.raises(StageFailed, match="the loss is nan"):
        failure.raise_failure(tmp_path)
    failure.clear(tmp_path)
    failure.raise_failure(tmp_path)
