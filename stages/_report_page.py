"""The report of a Scores artifact: one HTML page and one Markdown page with the same tables, and their pictures.

Shown are the scores by type beside what the model does without seeing, what a judge says of open answers, the published
rows of the zoo, and questions with their pictures, answered right and wrong. Everything is a file beside the page: it
opens from a folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from llavaflow.datasets.benchmarks._benchmark import Item, Mark, Pair, Result, load_benchmark
from llavaflow.infra.artifact import Json
from llavaflow.models.zoo import ZOO
from llavaflow.stages._report_plots import COLOURS, TITLES, bars, radar

OURS = "this evaluation"
# more rows than these cannot be told apart
RADAR_ROWS = (OURS, "LLaVA-1.5 7B", "LLaVA-1.5 13B", "LLaVA-1.6 Vicuna-7B", "LLaVA-1.6 Vicuna-13B")
EXAMPLES_EACH = 4
GOLD_CHARACTERS = 60
# half of the humans agree, or a judge's five of ten
RIGHT = 0.5


@dataclass(frozen=True, kw_only=True)
class Card:
    """One example: its picture's file, what was asked and answered, and what to know of the answer."""

    picture: str
    question: str
    answer: str
    note: str
    right: bool


def write_report(
    out: Path, *, facts: Mapping[str, Json], results: Mapping[str, Result], judged: Mapping[str, Result],
    told: Mapping[str, Json], pictures: Path, title: str, model: str,
) -> None:  # fmt: skip
    """Write report.html, report.md and pictures/ into a Scores artifact.

    results are scored by rule, judged by the judge that `told` names.
    """
    (out / "pictures").mkdir(exist_ok=True)
    types: Mapping[str, Mapping[str, Json]] = facts["types"]
    if types:
        bars(types, out / "pictures" / "bars.png")
    published = _published(results)
    columns = list(next(iter(published.values()))) if published else []
    drawn = {title: row for title, row in published.items() if title in RADAR_ROWS}
    has_radar = radar(drawn, columns, out / "pictures" / "radar.png") if published else False
    shown = {name: results[row["benchmark"]] for name, row in types.items()} | dict(judged)
    examples = {name: _cards(result, pictures, out) for name, result in shown.items()}
    series = [key for key in COLOURS if key in facts["mean"]]
    judged_rows: Mapping[str, Mapping[str, Json]] = facts.get("judged", {})
    page = {
        "title": title, "model": model, "questions": facts["samples"], "types": types, "series": series,
        "titles": TITLES, "mean": facts["mean"], "margin": facts["margin"], "published": published,
        "columns": columns, "radar": has_radar, "examples": examples,
        "rules": {name: score["rule"] for name, score in facts["scores"].items()},
        "judged": judged_rows, "judged_columns": list(next(iter(judged_rows.values()), {})), "judge": told,
    }  # fmt: skip
    (out / "report.html").write_text(_render("_scores_report.html.j2", page), encoding="utf-8")
    (out / "report.md").write_text(_markdown(page), encoding="utf-8")


def _render(name: str, page: Mapping[str, Any]) -> str:
    from jinja2 import Environment

    text = (files("llavaflow.stages") / name).read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text).render(page)


def _markdown(page: Mapping[str, Any]) -> str:
    """The tables alone, for a terminal, a pull request or Prefect."""
    series: Sequence[str] = page["series"]
    head = ["type", "n", *(TITLES[key] for key in series)]
    lines = [f"# {page['title']}"]
    if page["types"]:
        lines += ["", _line(head), _line(["---"] * len(head))]
        for name, row in page["types"].items():
            lines.append(_line([name, str(row["n"]), *(f"{row[key]:.1f}" for key in series)]))
        total = sum(row["n"] for row in page["types"].values())
        lines.append(_line(["**mean**", str(total), *(f"{page['mean'][key]:.1f}" for key in series)]))
        lines += ["", "![scores](pictures/bars.png)"]
    if page["judged"]:
        lines += ["", f"Open questions, reviewed by {page['judge']['title']}:", "", *_judged_table(page["judged"])]
    if page["published"]:
        columns = page["columns"]
        lines += ["", "Published rows answer the real benchmarks.", ""]
        lines += [_line(["model", *columns]), _line(["---"] * (len(columns) + 1))]
        for name, row in page["published"].items():
            lines.append(_line([name, *(f"{row[column]:.1f}" if column in row else "" for column in columns)]))
    lines += ["", *(f"- {name}: {rule}" for name, rule in page["rules"].items())]
    return "\n".join(lines) + "\n"


def _judged_table(judged: Mapping[str, Mapping[str, Json]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in judged.values() for column in row))
    rows = [[name, *(str(row.get(column, "")) for column in columns)] for name, row in judged.items()]
    return [_line(cells) for cells in (["benchmark", *columns], ["---"] * (len(columns) + 1), *rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _published(results: Mapping[str, Result]) -> dict[str, dict[str, float]]:
    """Ours first, then the zoo's rows that have all the columns of this evaluation."""
    ours = {
        column: result.score for name, result in results.items() if (column := load_benchmark(name).column) is not None
    }
    rows = {
        row.title: {column: row.scores[column].value for column in ours}
        for row in ZOO.values()
        if ours and set(ours) <= set(row.scores)
    }
    return {OURS: ours, **rows} if rows else {}


def _cards(result: Result, pictures: Path, out: Path) -> list[Card]:
    """A few right and a few wrong answers, the first of each in gold order, with their pictures copied."""
    chosen: list[tuple[Pair, Mark]] = []
    for right in (True, False):
        of_kind = (
            (pair, mark)
            for pair, mark in zip(result.pairs, result.marks, strict=True)
            if (mark.value >= RIGHT) == right and pair.answer and pair.answer.image
        )
        chosen += [found for _, found in zip(range(EXAMPLES_EACH), of_kind, strict=False)]
    return [_card(pair, mark, pictures, out) for pair, mark in chosen]


def _card(pair: Pair, mark: Mark, pictures: Path, out: Path) -> Card:
    assert pair.answer is not None, "only answered questions are shown"
    name = Path(pair.answer.image).name
    if (pictures / name).is_file():
        shutil.copyfile(pictures / name, out / "pictures" / name)
    question = pair.answer.prompt.split("\n")[0]
    return Card(
        picture=f"pictures/{name}",
        question=question,
        answer=pair.answer.text,
        note=_note(pair, mark),
        right=mark.value >= RIGHT,
    )


def _note(pair: Pair, mark: Mark) -> str:
    """What the answer should have been, or for an open question what the judge gave."""
    if "reference" in pair.item.meta:
        return f"judge: {10 * mark.value:.1f} of 10; reference: {pair.item.meta['reference']}"
    return "" if mark.value >= RIGHT else f"gold: {_gold(pair.item)[:GOLD_CHARACTERS]}"


def _gold(item: Item) -> str:
    """The gold answer as a reader takes it."""
    if isinstance(item.gold, list):
        answers = [str(human["answer"]) if isinstance(human, dict) else str(human) for human in item.gold]
        return ", ".join(dict.fromkeys(answers))
    if isinstance(item.gold, tuple):
        return str([round(value) for value in item.gold])
    return str(item.gold)
