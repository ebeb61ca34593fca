"""How a worker of a training job tells the driver why it failed, and which failures are worth another try.

An error of the project, or a full disk, would come again: the first one is final. Any other exception may be what the
survivors of a dead worker see (a connection that broke), so Ray starts the group again from the last training state;
when an exception comes again before there is a newer state, it is final too. A try that finds a final failure ends at
once. All is told in one small file beside the checkpoints, for which room is kept from the start.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import traceback
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from llavaflow.infra.errors import InputError, LlavaflowError, StageFailed

FAILURE, ROOM = "failure.json", "failure.room"
ROOM_BYTES = 1 << 16
# writers clean up after themselves, so that a disk that was full a moment ago has a little space again
FULL_BYTES = 1 << 20
BUG = "bug"
_KINDS = {kind.__name__: kind for kind in (InputError, StageFailed)}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """kind: name of the project's error, or a bug; step: of the newest training state when it came."""

    kind: str
    text: str
    step: int
    final: bool


def prepare(work: Path) -> None:
    """Forget how an earlier try failed, and keep room for telling it."""
    clear(work)
    (work / ROOM).write_bytes(bytes(ROOM_BYTES))


def clear(work: Path) -> None:
    (work / FAILURE).unlink(missing_ok=True)


def read(work: Path) -> Failure | None:
    """What the last try left."""
    try:
        return Failure(**json.loads((work / FAILURE).read_text("utf-8")))
    except FileNotFoundError:
        return None


def leave(work: Path, error: Exception, *, step: int, earlier: Failure | None) -> None:
    """Write down a failure. `step`: of the newest training state now; `earlier`: what this try found when it began.

    What followed from a final failure on another worker does not cover it.
    """
    there = read(work)
    if there is None or not there.final:
        _write(work, json.dumps(asdict(_failure(work, error, step, earlier))))


def _failure(work: Path, error: Exception, step: int, earlier: Failure | None) -> Failure:
    if isinstance(error, LlavaflowError):
        kind = type(error).__name__ if type(error).__name__ in _KINDS else StageFailed.__name__
        return Failure(kind=kind, text=str(error), step=step, final=True)
    full = _full_disk(work, error)
    if full:
        return Failure(kind=StageFailed.__name__, text=full, step=step, final=True)
    text = "".join(traceback.format_exception(error))[-ROOM_BYTES // 2 :]
    return Failure(kind=BUG, text=text, step=step, final=earlier is not None and earlier.step == step)


def _write(work: Path, body: str) -> None:
    scratch = work / f"failure.{uuid.uuid4().hex}"
    try:
        scratch.write_text(body, "utf-8")
    except OSError:
        (work / ROOM).unlink(missing_ok=True)
        scratch.write_text(body, "utf-8")
    os.replace(scratch, work / FAILURE)


def raise_failure(work: Path) -> None:
    """Raise what the workers left: the project's own failure as itself, a bug with its traceback."""
    (work / ROOM).unlink(missing_ok=True)
    failure = read(work)
    if failure is not None:
        raise _KINDS.get(failure.kind, RuntimeError)(failure.text)


def _full_disk(work: Path, error: BaseException | None) -> str | None:
    """Torch and TensorBoard wrap a full disk in errors of their own, so the disk is asked too."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            break
        error = error.__cause__ or error.__context__
    if error is None and shutil.disk_usage(work).free >= FULL_BYTES:
        return None
    return (
        f"the disk is full at {work}. The last checkpoint is kept; free some space and run the same command again: "
        "training goes on from there."
    )
