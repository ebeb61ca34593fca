"""Running lmms-eval: a program with requirements of its own, in its own environment, as a process that ends with ours.

`pipeline setup --lmms-eval` makes the environment `<sys.prefix>/lmms-eval`; another installation is found on the PATH
or named in $LLAVAFLOW_LMMS_EVAL. The harness keeps every answer in its own cache inside the work folder, so a run that
was killed asks only what is left. It is started there, because it takes the git commit of wherever it runs for its own.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.stages._lmms_results import HARNESS, RESULTS

COMMAND = "LLAVAFLOW_LMMS_EVAL"
VERSION = "version.txt"
LAST_LINES = 12
PR_SET_PDEATHSIG = 1


def own_command() -> Path:
    """Where `pipeline setup --lmms-eval` puts the harness."""
    return Path(sys.prefix) / HARNESS / "bin" / HARNESS


def command() -> list[str]:
    """How the harness is started. Raises InputError when it is not installed."""
    if named := os.environ.get(COMMAND):
        return shlex.split(named)
    found = own_command() if own_command().is_file() else shutil.which(HARNESS)
    if found is None:
        raise InputError(
            f"{HARNESS} is not installed: ${COMMAND} is not set, and there is neither {own_command()} nor `{HARNESS}` "
            "on the PATH. Run `pipeline setup --lmms-eval` once, or give the folder of a finished run: "
            "--set evaluate.results=FOLDER --set evaluate.checkpoint=none."
        )
    return [str(found)]


def evaluate(arguments: Sequence[str], work: Path, log: Callable[[str], None]) -> tuple[Path, str]:
    """Run the harness unless its results are there; the folder with them, and the version of what made them.

    Raises StageFailed with its last words when it leaves no results: it exits with 0 also where it failed.
    """
    work = work.resolve()  # the harness starts there, so what it is told is absolute
    out = work / "out"
    if not any(out.rglob(f"*{RESULTS}")):
        harness = command()
        work.mkdir(parents=True, exist_ok=True)
        (work / VERSION).write_text(_version(harness, work))
        words = [*harness, *arguments, "--log_samples", "--output_path", str(out), "--use_cache", str(work / "cache")]
        log(f"running {shlex.join(words)}; its output goes to {work / 'log.txt'}")
        with (work / "log.txt").open("wb") as told:
            # tasks of one's own count by their files: Python must leave none beside them
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=told, stderr=told, cwd=work, preexec_fn=_end_with_parent(),
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
            try:
                code = process.wait()
            finally:
                process.kill()
        if code or not any(out.rglob(f"*{RESULTS}")):
            said = "\n".join((work / "log.txt").read_text(errors="replace").strip().splitlines()[-LAST_LINES:])
            raise StageFailed(f"{HARNESS} ended with {code} and left no results. Its last lines:\n{said}")
    return out, (work / VERSION).read_text()


def _version(harness: Sequence[str], work: Path) -> str:
    """What the harness calls its version; empty for one that does not say."""
    done = subprocess.run([*harness, "version"], capture_output=True, text=True, check=False, cwd=work)
    words = done.stdout.split()[:2]
    return words[1] if done.returncode == 0 and words[:1] == [HARNESS] else ""


def _end_with_parent() -> Callable[[], None] | None:
    """What asks Linux to end the child when we end, however that happens; the library is loaded before the fork."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
