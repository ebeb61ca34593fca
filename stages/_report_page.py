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
from urllib.parse import quote

from llavaflow.datasets.benchmarks._benchmark import PERCENT, Item, Mark, Pair, Result, load_benchmark
from llavaflow.infra.artifact import Json
from llavaflow.models.zoo import ZOO
from llavaflow.stages._report_plots import COLOURS, TITLES, bars, categories, category_values, radar

OURS = "this evaluation"
# more rows than these cannot be told apart
RADAR_ROWS = (OURS, "LLaVA-1.5 7B", "LLaVA-1.5 13B", "LLaVA-1.6 Vicuna-7B", "LLaVA-1.6 Vicuna-13B")
# metrics that the zoo has a column of its own for
PARTS = {
    "mme": {"cognition": "MME-C"},
    "seed": {"image": "SEED-IMG"},
    "scienceqa": {"all": "SQA"},
    "llava-bench-coco": {"conv": "Bench-Conv", "detail": "Bench-Detail", "complex": "Bench-Complex"},
}
# without this metric the gold is but a part of what the column is about
WHOLE = {"seed": "video"}
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
    out: Path,
    *,
    facts: Mapping[str, Json],
    title: str,
    model: str,
    ours: Mapping[str, float],
    results: Mapping[str, Result] | None = None,
    told: Mapping[str, Json] | None = None,
    pictures: Path | None = None,
) -> None:
    """Write report.html, report.md and pictures/ into a Scores artifact.

    facts: `scores` with their rules; `types`, `mean` and `judged` where there are any. ours: the scores by the zoo's
    column. results: what examples are taken from, with the folder of their pictures. told: who judged.
    """
    (out / "pictures").mkdir(exist_ok=True)
    types: Mapping[str, Mapping[str, Json]] = facts.get("types", {})
    judged: Mapping[str, Mapping[str, Json]] = facts.get("judged", {})
    percents = {name: row for name, row in types.items() if load_benchmark(row["benchmark"]).unit == PERCENT}
    if percents:
        bars(percents, out / "pictures" / "bars.png")
    published = _published(ours)
    drawn = {title: row for title, row in published.items() if title in RADAR_ROWS}
    shared = [column for column in ours if drawn and all(column in row for row in drawn.values())]
    grouped = {name: values for name, found in (results or {}).items() if (values := category_values(found.metrics))}
    for name, values in grouped.items():
        categories(values, f"{name}, by category", out / "pictures" / f"categories_{name}.png")
    kinds = {row["benchmark"]: name for name, row in types.items()}
    page = {
        "title": title, "model": model, "questions": facts["samples"], "types": types,
        "series": [key for key in COLOURS if key in facts.get("mean", {})], "titles": TITLES,
        "mean": facts.get("mean", {}), "margin": facts.get("margin"), "scores": facts["scores"],
        "judged": judged, "judged_columns": _judged_columns(judged), "judge": told or {},
        "published": published, "columns": [column for column in ours if any(column in r for r in published.values())],
        "bars": bool(percents), "categories": [f"pictures/categories_{name}.png" for name in grouped],
        "radar": radar(drawn, shared, out / "pictures" / "radar.png"),
        "examples": {kinds.get(name, name): _cards(result, pictures, out) for name, result in (results or {}).items()},
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
        lines += ["", "![scores](pictures/bars.png)"] if page["bars"] else []
    else:
        lines += ["", _line(["benchmark", "n", "score"]), _line(["---"] * 3)]
        lines += [_line([name, str(row["n"]), str(row["score"])]) for name, row in page["scores"].items()]
    if page["judged"]:
        lines += ["", f"Open questions, reviewed by {page['judge']['title']}:", "", *_judged_table(page["judged"])]
    lines += [line for picture in page["categories"] for line in ("", f"![by category]({picture})")]
    if page["published"]:
        columns = page["columns"]
        lines += ["", "Published rows answer the real benchmarks.", ""]
        lines += [_line(["model", *columns]), _line(["---"] * (len(columns) + 1))]
        for name, row in page["published"].items():
            lines.append(_line([name, *(f"{row[column]:.1f}" if column in row else "" for column in columns)]))
    lines += ["", *(f"- {name}: {row['rule']}" for name, row in page["scores"].items())]
    return "\n".join(lines) + "\n"


def _judged_table(judged: Mapping[str, Mapping[str, Json]]) -> list[str]:
    columns = _judged_columns(judged)
    rows = [[name, *(str(row.get(column, "")) for column in columns)] for name, row in judged.items()]
    return [_line(cells) for cells in (["benchmark", *columns], ["---"] * (len(columns) + 1), *rows)]


def _judged_columns(judged: Mapping[str, Mapping[str, Json]]) -> list[str]:
    """What any of the judged benchmarks tells: LLaVA-Bench has categories, MM-Vet has none."""
    return list(dict.fromkeys(column for row in judged.values() for column in row))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def columns_of(results: Mapping[str, Result]) -> dict[str, float]:
    """Scores by the zoo's columns, those parts included that have a column of their own."""
    found: dict[str, float] = {}
    for name, result in results.items():
        column = load_benchmark(name).column
        if column and (name not in WHOLE or WHOLE[name] in result.metrics):
            found[column] = result.score
        for key, part in PARTS.get(name, {}).items():
            value = result.metrics.get(key)
            if value is not None:
                found[part] = value["relative"] if isinstance(value, Mapping) else value
    return found


def _published(ours: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Ours first, then the zoo's rows that have at least half of its columns."""
    known = {column for row in ZOO.values() for column in row.scores}
    columns = [column for column in ours if column in known]
    rows = {
        row.title: {column: row.scores[column].value for column in columns if column in row.scores}
        for row in ZOO.values()
    }
    kept = {title: row for title, row in rows.items() if columns and 2 * len(row) >= len(columns)}
    return {OURS: dict(ours), **kept} if kept else {}


def _cards(result: Result, pictures: Path | None, out: Path) -> list[Card]:
    """A few right and a few wrong answers, the first of each in gold order, with their pictures copied."""
    if pictures is None:
        return []
    chosen: list[tuple[Pair, Mark, str]] = []
    for right in (True, False):
        of_kind = (
            (pair, mark, image)
            for pair, mark in zip(result.pairs, result.marks, strict=True)
            if (mark.value >= RIGHT) == right and (image := _image(pair, pictures))
        )
        chosen += [found for _, found in zip(range(EXAMPLES_EACH), of_kind, strict=False)]
    return [_card(pair, mark, pictures, image, out) for pair, mark, image in chosen]


def _image(pair: Pair, pictures: Path) -> str:
    """The picture of an answered question, empty where there is none; stored answers may leave it to the gold."""
    if pair.answer is None:
        return ""
    names = (name for name in (pair.answer.image, pair.item.image) if name and ".." not in Path(name).parts)
    return next((name for name in names if not name.startswith("/") and (pictures / name).is_file()), "")


def _card(pair: Pair, mark: Mark, pictures: Path, image: str, out: Path) -> Card:
    """An example; its picture keeps its folders, for there every ScienceQA picture is called image.png."""
    assert pair.answer is not None, "only answered questions are shown"
    target = out / "pictures" / image
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(pictures / image, target)
    question = pair.answer.prompt.split("\n")[0]
    return Card(
        picture=quote(f"pictures/{image}"),
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
