"""How a worker of a training job tells the driver why it failed: in one small file beside its checkpoints.

Ray would start a failed job again; the next try finds the file and ends at once. A full disk is one of the failures,
so room for the file is kept from the start.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import traceback
from pathlib import Path

from llavaflow.infra.errors import LlavaflowError, StageFailed

FAILURE, ROOM = "failure.json", "failure.room"
ROOM_BYTES = 1 << 16
# writers clean up after themselves, so that a disk that was full a moment ago has a little space again
FULL_BYTES = 1 << 20


def prepare(work: Path) -> None:
    """Forget how an earlier try failed, and keep room for telling it."""
    (work / FAILURE).unlink(missing_ok=True)
    (work / ROOM).write_bytes(bytes(ROOM_BYTES))


def has_failed(work: Path) -> bool:
    return (work / FAILURE).exists()


def leave(work: Path, error: Exception, rank: int) -> None:
    """Write down a failure, from inside its `except` block: what is not the project's own with its traceback."""
    full = None if isinstance(error, LlavaflowError) else _full_disk(work, error)
    text = full or (str(error) if isinstance(error, LlavaflowError) else traceback.format_exc())
    body = json.dumps({"text": text[-ROOM_BYTES // 2 :], "expected": bool(full) or isinstance(error, LlavaflowError)})
    scratch = work / f"failure.{rank}"
    try:
        scratch.write_text(body, "utf-8")
    except OSError:
        (work / ROOM).unlink(missing_ok=True)
        scratch.write_text(body, "utf-8")
    os.replace(scratch, work / FAILURE)


def raise_failure(work: Path) -> None:
    """Raise what the workers left: the project's own failure as itself, a bug with its traceback."""
    (work / ROOM).unlink(missing_ok=True)
    if has_failed(work):
        failure = json.loads((work / FAILURE).read_text("utf-8"))
        raise (StageFailed if failure["expected"] else RuntimeError)(failure["text"])


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
