"""What a training run tells while it runs: one JSON line per optimizer step, TensorBoard and other trackers beside it,
the ids of the samples that each step held, and messages.

A run that was killed and goes on cuts the lines after its checkpoint first, so that every step stands once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from llavaflow.stages._trackers import Trackers, Tracking

LOG, SEEN = "log.jsonl", "seen.jsonl"
MESSAGES = "messages.log"
TENSORBOARD = "tensorboard"
SCALARS = ("loss", "lr", "grad_norm", "tokens_per_second", "pad_fraction")


class TrainingLog:
    """Written by the first worker alone; steps are counted from 1."""

    def __init__(self, out: Path, work: Path, begin: int, tracking: Tracking) -> None:
        from torch.utils.tensorboard import SummaryWriter

        out.mkdir(parents=True, exist_ok=True)
        for name in (LOG, SEEN):
            keep_steps(out / name, begin)
        self._lines = (out / LOG).open("a", encoding="utf-8")
        self._seen = (out / SEEN).open("a", encoding="utf-8")
        self._messages = (work / MESSAGES).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(out / TENSORBOARD), purge_step=begin + 1, flush_secs=10)
        self._trackers = Trackers(tracking, lambda text: self.say([text]))

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._trackers.close()
        self._lines.close()
        self._seen.close()
        self._messages.close()
        self._board.close()

    def samples(self, step: int, ids: Sequence[str]) -> None:
        """Append the ids of the samples of a step, before it is computed."""
        self._seen.write(json.dumps({"step": step, "ids": ids}) + "\n")
        self._seen.flush()

    def step(self, row: dict[str, Any]) -> None:
        """Append the line of one optimizer step."""
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        values = {name: row[name] for name in SCALARS}
        for name, value in values.items():
            self._board.add_scalar(name, value, row["step"])
        self._trackers.log(row["step"], values)

    def say(self, lines: Iterable[object]) -> None:
        """Messages for the person who watches the run."""
        self._messages.writelines(f"{line}\n" for line in lines)
        self._messages.flush()


def keep_steps(path: Path, steps: int) -> None:
    """Cut a log to its first `steps` steps; a half-written last line goes too."""
    if not path.exists():
        return
    rows = read_log(path)
    scratch = path.with_suffix(".tmp")
    scratch.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= steps), "utf-8")
    scratch.replace(path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a log."""
    lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]
