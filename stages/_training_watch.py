"""The driver's view of a training job: reads what the workers write and shows it as bar and messages."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from llavaflow.infra.context import Bar, RunContext
from llavaflow.stages._training_log import LOG, MESSAGES


class Watch:
    """`look` is called a few times per second and never waits."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx
        self._stack = ExitStack()
        self._tails = {LOG: _Tail(ctx.out / LOG), MESSAGES: _Tail(ctx.work / MESSAGES)}
        self._bar: Bar | None = None
        self._shown = 0

    def __enter__(self) -> Watch:
        (self._ctx.work / MESSAGES).unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()

    def look(self) -> None:
        """Show what is new."""
        for line in self._tails[MESSAGES].lines():
            self._ctx.log.info("%s: %s", self._ctx.stage, line)
        for line in self._tails[LOG].lines():
            self._show(json.loads(line))

    def _show(self, row: dict[str, Any]) -> None:
        if self._bar is None:
            self._bar = self._stack.enter_context(self._ctx.progress.bar(f"{self._ctx.stage} steps", row["steps"]))
        # after a restart of the workers some steps come twice; a resumed run begins in the middle
        self._bar.advance(max(0, row["step"] - self._shown))
        self._shown = max(self._shown, row["step"])
        self._bar.note(f"loss {row['loss']:.3f}, {row['tokens_per_second']:,.0f} tokens/s")


class _Tail:
    """The complete lines appended to a file since the last look; a file that shrank is read from its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def lines(self) -> list[str]:
        try:
            with self._path.open("rb") as stream:
                if stream.seek(0, 2) < self._offset:
                    self._offset = 0
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode().splitlines()
