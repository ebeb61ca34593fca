"""Lanes: parts trained one after the other in a process each, with one thread, while the stage shows their progress.

One thread per process keeps the order of additions, and so the weights, the same on every machine of a kind. A
process ends by itself when its parent is gone: nothing is left running after a kill.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from llavaflow.infra.context import Bar, RunContext
from llavaflow.infra.errors import StageFailed
from llavaflow.stages._foundation_fit import Report

Lane = Sequence[tuple[str, int]]
Train = Callable[[str, Path, Path, Path, Report], dict[str, Any]]
_REPORT_EVERY = 5
_POLL_S = 0.5


def run_lanes(train: Train, lanes: Sequence[Lane], world: Path, ctx: RunContext) -> dict[str, dict[str, Any]]:
    """Train every part of every lane; returns the measures by part. Raises StageFailed when a process dies."""
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    processes = [
        context.Process(
            target=_lane,
            args=(train, [name for name, _ in lane], world, ctx.out, ctx.work, messages, os.getpid()),
            daemon=True,
        )
        for lane in lanes
    ]
    measured: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        bars = {name: stack.enter_context(ctx.progress.bar(name, steps)) for lane in lanes for name, steps in lane}
        try:
            for process in processes:
                process.start()
            while len(measured) < len(bars):
                _take(messages, processes, bars, measured)
        finally:
            for process in processes:
                if process.is_alive() and len(measured) < len(bars):
                    process.terminate()
                process.join()
    return measured


def _take(messages: Any, processes: Sequence[Any], bars: dict[str, Bar], measured: dict[str, dict[str, Any]]) -> None:
    """One message of a lane: steps done, a finished part, or the reason why it stopped."""
    try:
        kind, name, value, note = messages.get(timeout=_POLL_S)
    except queue.Empty:
        fallen = [process.exitcode for process in processes if process.exitcode]
        if fallen:
            raise StageFailed(
                f"a training process of foundation died with exit code {fallen[0]} (-9: out of memory or killed). "
                "Run the same command again: it goes on from the last checkpoint."
            ) from None
        return
    if kind == "steps":
        bars[name].advance(value)
        bars[name].note(note)
    elif kind == "done":
        measured[name] = value
    else:
        raise StageFailed(f"training {name} failed: {value}")


def _lane(train: Train, names: Sequence[str], world: Path, out: Path, work: Path, messages: Any, parent: int) -> None:
    """What a process does: its parts in order."""
    import torch

    torch.set_num_threads(1)
    for name in names:
        shown = 0

        def report(step: int, note: str, name: str = name) -> None:
            nonlocal shown
            if os.getppid() != parent:
                os._exit(1)
            if step - shown >= _REPORT_EVERY:
                messages.put(("steps", name, step - shown, note))
                shown = step

        try:
            measured = train(name, world, out, work, report)
        except Exception as error:
            messages.put(("failed", name, f"{type(error).__name__}: {error}", ""))
            raise
        messages.put(("done", name, measured, ""))
