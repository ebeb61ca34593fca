"""What a run of lmms-eval left behind: its results file, and the samples files beside it when they were logged.

    <output_path>/<model>/<date>_results.json             {"results": {task: {"metric,filter": value}}, "config", ...}
    <output_path>/<model>/<date>_samples_<task>.jsonl     one line per question, with its value of every metric

A task that is one of our benchmarks is named so, and its number put into the unit of the zoo's column; the rule is the
harness's own, which differs for some (its POPE is the pooled F1).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from llavaflow.datasets.benchmarks._files import load, rows
from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError

HARNESS = "lmms-eval"
RESULTS = "_results.json"
# what an installed harness says of itself: unknown@unknown
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One task: `score` in the unit of the benchmark's column, or as the harness has it for a task we do not know."""

    task: str
    benchmark: str | None
    metric: str
    score: float
    n: int | None
    metrics: Mapping[str, float]
    samples: Path | None

    @property
    def name(self) -> str:
        return self.benchmark or self.task


@dataclass(frozen=True, kw_only=True)
class HarnessRun:
    """One results file: which version of the harness evaluated which model, and every score."""

    version: str
    model: str
    model_args: str
    date: str
    scores: tuple[TaskScore, ...]


def read_run(path: Path, version: str = "") -> HarnessRun:
    """A results file, or the newest one of a folder; `version` is the harness's where we have run it ourselves.

    Raises InputError for anything else, and for several models.
    """
    file = results_file(path)
    document = load(file)
    results = document.get("results") if isinstance(document, Mapping) else None
    if not isinstance(results, Mapping) or not isinstance(document.get("config"), Mapping):
        raise InputError(f"{file} is no results file of {HARNESS}: it has no results and config.")
    scores = tuple(_one_each(list(_scores(document, file))))
    if not scores:
        raise InputError(f"{file} has no task with a number in it: found {', '.join(results) or 'no task'}.")
    config = document["config"]
    told = str(document.get("lmms_eval_version") or UNKNOWN)
    version = version or (f"git {document.get('git_hash') or 'unknown'}" if UNKNOWN in told else told)
    return HarnessRun(
        version=version,
        model=str(document.get("model_name") or config.get("model") or "unknown"),
        model_args=str(config.get("model_args") or ""),
        date=str(document.get("date") or file.name.removesuffix(RESULTS)),
        scores=scores,
    )


def results_file(path: Path) -> Path:
    """The file itself, or the newest results file of a folder."""
    if path.is_file():
        return path
    found = sorted(path.rglob(f"*{RESULTS}"), key=lambda file: file.name) or sorted(path.rglob("results.json"))
    if not found:
        raise InputError(f"no results of {HARNESS} in {path}: looked for *{RESULTS} and results.json.")
    folders = sorted({file.parent.name for file in found})
    if len(folders) > 1:
        raise InputError(f"{path} holds results of several models ({', '.join(folders)}): name one of the folders.")
    return found[-1]


def _scores(document: Mapping[str, Any], file: Path) -> Iterator[TaskScore]:
    known = tasks()
    for task, values in document["results"].items():
        metrics = {_metric(name): float(value) for name, value in values.items() if _is_number(name, value)}
        benchmark, metric, scale = known.get(task, (None, _first_metric(document, task, metrics), 1))
        if metric not in metrics:
            continue
        samples = file.with_name(f"{file.name.removesuffix(RESULTS)}_samples_{task}.jsonl")
        count = (document.get("n-samples") or {}).get(task) or {}
        yield TaskScore(
            task=task,
            benchmark=benchmark,
            metric=metric,
            score=scale * metrics[metric],
            n=count.get("effective"),
            metrics=metrics,
            samples=samples if samples.is_file() else None,
        )


def _one_each(scores: Sequence[TaskScore]) -> Iterator[TaskScore]:
    """Tasks that are one and the same benchmark of ours (MathVista in three prompts) each keep the harness's name."""
    counts = Counter(score.benchmark for score in scores)
    for score in scores:
        yield replace(score, benchmark=None) if counts[score.benchmark] > 1 else score


def _is_number(name: str, value: Any) -> bool:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "_stderr" not in name and usable and math.isfinite(value)


def _metric(name: str) -> str:
    """`exact_match,none` is the metric after the filter that does nothing; other filters stay in the name."""
    return name.removesuffix(",none").removesuffix(",flexible-extract")


def _first_metric(document: Mapping[str, Any], task: str, metrics: Mapping[str, float]) -> str:
    listed = ((document.get("configs") or {}).get(task) or {}).get("metric_list") or []
    return next((str(item["metric"]) for item in listed if item.get("metric") in metrics), next(iter(metrics), ""))


def read_samples(score: TaskScore) -> list[dict[str, Json]]:
    """The answers of a task as LLaVA's lines; the mark is the harness's value for the question, None if it has none."""
    if score.samples is None:
        return []
    return [_line(row, score.metric) for row in rows(score.samples)]


def _line(row: Mapping[str, Any], metric: str) -> dict[str, Json]:
    reply = row.get("filtered_resps") or row.get("resps") or ""
    while isinstance(reply, list):
        reply = reply[0] if reply else ""
    return {
        "question_id": row.get("doc_id"),
        "prompt": str(row.get("input") or ""),
        "text": str(reply),
        "metadata": {"mark": _mark(row.get(metric)), "target": row.get("target")},
    }


def _mark(value: Any) -> float | None:
    if isinstance(value, Mapping):
        if "pred" in value and "answer" in value:
            return float(str(value["pred"]).strip().lower() == str(value["answer"]).strip().lower())
        value = value.get("score")
    return float(value) if isinstance(value, (int, float)) else None


def tasks() -> dict[str, tuple[str | None, str, float]]:
    """Our benchmark, the metric and its factor, by the harness's name of the task."""
    text = (files("llavaflow.stages") / "_lmms_tasks.json").read_text(encoding="utf-8")
    return {name: (row[0], row[1], row[2]) for name, row in json.loads(text).items()}
