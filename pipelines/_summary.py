"""The end of a run as a person reads it: where the time went, the scores, and where to look further."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llavaflow.infra.artifact import Artifact
from llavaflow.pipelines._facts import one_line, tables
from llavaflow.pipelines._run import Row, Run

if TYPE_CHECKING:
    from rich.console import Console

# the stages whose checkpoint answers questions
MODELS = ("Base", "Train", "ZooWeights")
COLOURS = {"found": "green", "built": "bold green", "failed": "bold red", "skipped": "dim"}


def render(console: Console, run: Run) -> None:
    """Print the tables of a run."""
    _where_the_time_went(console, run)
    scores = [row for row in run.rows.values() if row.artifact and row.artifact.kind == "scores"]
    for row in scores:
        assert row.artifact is not None
        _scores(console, row.name, row.artifact)
    if run.state == "completed":
        for line in _addresses(run):
            console.print(line, soft_wrap=True)


def _where_the_time_went(console: Console, run: Run) -> None:
    from rich.markup import escape
    from rich.table import Table

    total = run.seconds
    # facts get what the other columns leave; without a ratio a long message would squeeze them all
    title = f"{run.recipe.name}: where the time went"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, expand=True)
    table.add_column("stage", style="bold", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("facts", overflow="ellipsis", no_wrap=True, ratio=1)
    for row in run.rows.values():
        share = f"{row.seconds / total:.0%}" if total > 1 else ""
        table.add_row(
            row.name, f"[{COLOURS[row.state]}]{row.state}[/]", duration(row.seconds), share, escape(_remark(row))
        )
    overhead = run.seconds - sum(row.seconds for row in run.rows.values())
    if overhead > 1:
        table.add_row("[dim]orchestration[/]", "", duration(overhead), f"{overhead / total:.0%}", "[dim]Prefect[/]")
    console.print(table)
    counts = {state: sum(row.state == state for row in run.rows.values()) for state in COLOURS}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.print(f"{run.state} in {duration(run.seconds)}: {told}\n")


def _remark(row: Row) -> str:
    if row.state in ("failed", "skipped"):
        return row.why.partition("\n")[0]
    return one_line(row.artifact.facts) if row.artifact else ""


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _scores(console: Console, name: str, artifact: Artifact) -> None:
    """The tables of an evaluation; its rules are paragraphs and stand in the report."""
    from rich.markup import escape
    from rich.table import Table

    for title, header, rows in tables(artifact.facts):
        table = Table(title=title or name, title_justify="left", box=None, pad_edge=False)
        shown = [number for number, column in enumerate(header) if column != "rule"]
        for number in shown:
            table.add_column(header[number], justify="right" if number else "left")
        for cells in rows:
            table.add_row(*[escape(cells[number]) for number in shown])
        console.print(table)
        console.print()
    console.print(f"rules        pipeline show {artifact.ref}\n")


def _addresses(run: Run) -> Iterator[str]:
    rows = {row.name: row for row in run.rows.values() if row.artifact}
    for row in rows.values():
        assert row.artifact is not None
        if row.artifact.kind in ("scores", "report"):
            yield f"report       {row.artifact.uri}/report.html"
    models = [name for name, stage in run.recipe.stages.items() if stage.type_name() in MODELS and name in rows]
    if models:
        # what a person wants to ask is what was trained last, not a copy of it
        last = rows[models[-1]]
        assert last.artifact is not None
        yield f"checkpoint   {last.artifact.uri}"
        yield f'ask it       pipeline ask {run.recipe.name}/{last.name} PICTURE "question"'
    yield f"lineage      pipeline lineage {run.recipe.name}/{run.selected[-1]}"
    yield "pages        pipeline ui"
