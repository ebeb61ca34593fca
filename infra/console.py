"""What a person sees of a run: log lines and progress on stderr, so that stdout stays free for the result.

On a terminal the bars are live; in a pipe or a log file a bar is a line now and then, at most one in ten seconds.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from llavaflow.infra.context import Bar, Progress

LOGGER = "llavaflow"
LINE_EVERY_S = 10.0
# what the libraries would print between our lines, in this process and in those it starts
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def terminal(*, verbose: bool = False) -> Iterator[tuple[logging.Logger, Progress]]:
    """The project's logger writing to stderr and a progress on it, for a `with` block."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not Path("/proc/driver/nvidia").exists():
        # or DeepSpeed, which transformers imports, warns that it found no GPU
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    console = Console(file=sys.stderr, highlight=False, width=None if sys.stderr.isatty() else 160)
    live = console.is_terminal
    handler: logging.Handler = RichHandler(
        console=console, show_path=False, rich_tracebacks=False, log_time_format="%X"
    )
    if not live:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        with LiveProgress.on(console) if live else LineProgress.on(logger) as progress:
            yield logger, progress
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what anybody prints meanwhile to stderr, also from libraries and child processes: stdout is the result's."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class LiveProgress:
    """Bars that move, on a terminal. A finished bar goes away; what is worth keeping is a log line."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    @classmethod
    @contextmanager
    def on(cls, console: Console) -> Iterator[LiveProgress]:
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=32), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("[dim]{task.fields[note]}"),
        )  # fmt: skip
        with Bars(*columns, console=console, transient=True) as bars:
            yield cls(bars)

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[Bar]:
        task = self._bars.add_task(title, total=total, note="")
        try:
            yield _LiveBar(self._bars, task)
        finally:
            self._bars.remove_task(task)


@dataclass
class _LiveBar:
    bars: Bars
    task: TaskID

    def advance(self, steps: int = 1) -> None:
        self.bars.advance(self.task, steps)

    def note(self, text: str) -> None:
        self.bars.update(self.task, note=text)


class LineProgress:
    """The progress for logs and pipes: a line per bar every ten seconds, none for what is done sooner."""

    def __init__(self, logger: logging.Logger, every_s: float = LINE_EVERY_S) -> None:
        self._logger = logger
        self._every_s = every_s

    @classmethod
    @contextmanager
    def on(cls, logger: logging.Logger) -> Iterator[LineProgress]:
        yield cls(logger)

    def bar(self, title: str, total: int | None = None) -> AbstractContextManager[Bar]:
        return _LineBar(logger=self._logger, title=title, total=total, every_s=self._every_s)


@dataclass
class _LineBar:
    logger: logging.Logger
    title: str
    total: int | None
    every_s: float
    done: int = 0
    text: str = ""
    last: float = field(default_factory=time.monotonic)

    def __enter__(self) -> _LineBar:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if time.monotonic() - self.last >= self.every_s:
            self.last = time.monotonic()
            of = f"/{self.total}" if self.total else ""
            self.logger.info("%s %d%s %s", self.title, self.done, of, self.text)

    def note(self, text: str) -> None:
        self.text = text
