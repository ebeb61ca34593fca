"""Scores as people read them: a table in the terminal, ours beside the published rows of the zoo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llavaflow.datasets.benchmarks._benchmark import Result

if TYPE_CHECKING:
    from rich.console import Console


def print_result(console: Console, result: Result) -> None:
    """One benchmark's result with its rule, its metrics and what the reader must know."""
    from rich.table import Table

    console.print(f"{result.benchmark}: {result.score:.2f} {result.unit}")
    console.print(f"{result.n} questions, {result.missing} missing, {result.unparsed} unparsed", style="dim")
    table = Table("metric", "value", box=None)
    for name, value in flat(result.metrics):
        table.add_row(name, value)
    if table.row_count:
        console.print(table)
    console.print(f"rule: {result.rule}")
    for note in result.notes:
        console.print(f"note: {note}")


def print_report(console: Console, text: str) -> None:
    """The Markdown report of a Scores artifact in the terminal: its tables, the published rows and the rules."""
    from rich.markdown import Markdown

    lines = (line for line in text.splitlines() if not line.startswith("!["))
    console.print(Markdown("\n".join(lines)))


def flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The metrics as dotted names and printable values."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", f"{value:.2f}" if isinstance(value, float) else str(value)
