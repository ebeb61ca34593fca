"""Scores as people read them: a table in the terminal, ours beside the published rows of the zoo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llavaflow.datasets.benchmarks._benchmark import Result, load_benchmark

if TYPE_CHECKING:
    from rich.console import Console


def print_result(console: Console, result: Result) -> None:
    """One benchmark's result with its rule, its metrics and what the reader must know.

    Rules, categories and questions have brackets of their own: nothing here is markup.
    """
    from rich.table import Table
    from rich.text import Text

    console.print(f"{result.benchmark}: {result.score:.2f} {result.unit}")
    console.print(f"{result.n} questions, {result.missing} missing, {result.unparsed} unparsed", style="dim")
    table = Table("metric", "value", box=None)
    for name, value in flat(result.metrics):
        table.add_row(Text(name), Text(value))
    if table.row_count:
        console.print(table)
    console.print(f"rule: {result.rule}", markup=False)
    column = load_benchmark(result.benchmark).column
    if rows := published(column):
        listed = ", ".join(f"{title} {value:g}" for title, value in rows.items())
        console.print(f"published as {column} (zoo:NAME tells rule and harness of each): {listed}", style="dim")
    for note in result.notes:
        console.print(f"note: {note}", markup=False)


def published(column: str | None) -> dict[str, float]:
    """What the zoo's rows have in a column, by the row's title; nothing for a benchmark that has none."""
    from llavaflow.models.zoo import ZOO

    return {row.title: row.scores[column].value for row in ZOO.values() if column in row.scores}


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
