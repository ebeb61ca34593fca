"""Lmms-eval as a second engine: its results, or a run of it, as a Scores artifact that names harness and version.

It is a program of its own with requirements of its own: install it in another environment and put its `lmms-eval` on
the PATH, or name it in $LLAVAFLOW_LMMS_EVAL. A run that is finished already needs only its folder.

    scores.json    every task with its metrics       answers/<name>.jsonl    the logged samples, with their marks
    lmms-eval/     the results file as it was        report.html, report.md  beside the published rows
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llavaflow.datasets.benchmarks._benchmark import load_benchmark
from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.stages._lmms_results import HARNESS, HarnessRun, TaskScore, read_run, read_samples, results_file
from llavaflow.stages._report_page import write_report
from llavaflow.stages._stage import Stage

COMMAND = "LLAVAFLOW_LMMS_EVAL"
LAST_LINES = 12


@dataclass(frozen=True, kw_only=True)
class LmmsEval(Stage):
    """A finished run (`results`, its folder or results file), or a checkpoint and the tasks to run it on.

    checkpoint: a stage or folder; `model` is the harness's class for it, `model_args` what it takes besides.
    """

    kind: ClassVar[Kind] = "scores"
    folders_by_content: ClassVar[bool] = True

    results: Path | None = None
    checkpoint: Stage | Path | None = None
    folder: str = "model"
    model: str = "llava_hf"
    model_args: str = ""
    tasks: tuple[str, ...] = ("gqa", "textvqa_val", "pope", "mme")
    batch_size: int = 1

    def run(self, ctx: RunContext) -> Artifact:
        if (self.results is None) == (self.checkpoint is None):
            raise InputError("lmms-eval needs either `results`, a finished run, or a `checkpoint` to run.")
        place = self.results if self.results is not None else self._evaluated(ctx)
        found = read_run(place)
        shutil.rmtree(ctx.out, ignore_errors=True)
        (ctx.out / "answers").mkdir(parents=True)
        (ctx.out / HARNESS).mkdir()
        shutil.copyfile(results_file(place), ctx.out / HARNESS / "results.json")
        for score in found.scores:
            _write_samples(score, found, ctx.out)
        facts = _facts(found)
        text = json.dumps(_document(found), indent=1, ensure_ascii=False)
        (ctx.out / "scores.json").write_text(text + "\n", encoding="utf-8")
        write_report(ctx.out, facts=facts, ours=_columns(found), title=f"{HARNESS} {found.version}", model=found.model)
        return ctx.finish(facts)

    def _evaluated(self, ctx: RunContext) -> Path:
        """Run the harness; its output stays in the work folder, so that a run that ended is not repeated."""
        out = ctx.work / HARNESS
        if any(out.rglob("*_results.json")):
            return out
        command = _command()
        place = self.checkpoint if isinstance(self.checkpoint, Path) else ctx.path(self.checkpoint) / self.folder
        given = [f"pretrained={place}", *filter(None, [self.model_args])]
        arguments = [
            "--model", self.model, "--model_args", ",".join(given), "--tasks", ",".join(self.tasks),
            "--batch_size", str(self.batch_size), "--log_samples", "--output_path", str(out),
        ]  # fmt: skip
        ctx.log.info("running %s", shlex.join([*command, *arguments]))
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode or not any(out.rglob("*_results.json")):
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-LAST_LINES:])
            raise StageFailed(f"{HARNESS} ended with {done.returncode} and left no results. Its last lines:\n{said}")
        return out


def _command() -> list[str]:
    """How the harness is started. Raises InputError when it is not installed."""
    if named := os.environ.get(COMMAND):
        return shlex.split(named)
    found = shutil.which("lmms-eval")
    if found is None:
        raise InputError(
            f"{HARNESS} is not installed: no `lmms-eval` on the PATH and ${COMMAND} is not set. Install it in an "
            f"environment of its own (pip install lmms-eval) and set {COMMAND}=/that/bin/lmms-eval, or give the "
            "folder of a finished run: --set evaluate.results=FOLDER --set evaluate.checkpoint=none."
        )
    return [found]


def _rule(score: TaskScore, run: HarnessRun) -> str:
    return f"{HARNESS} {run.version}, task {score.task}, metric {score.metric}, as that harness prompts and scores."


def _facts(run: HarnessRun) -> dict[str, Json]:
    scores = {
        score.name: {"score": round(score.score, 2), "n": score.n, "rule": _rule(score, run)} for score in run.scores
    }
    return {
        "samples": sum(score.n or 0 for score in run.scores),
        "engine": f"{HARNESS} {run.version}",
        "model": run.model,
        "scores": scores,
        "types": {},
        "mean": {},
        "margin": None,
    }


def _document(run: HarnessRun) -> dict[str, Json]:
    results = {
        score.name: {
            "images": {
                "benchmark": score.benchmark, "task": score.task, "score": score.score, "metrics": dict(score.metrics),
                "n": score.n, "rule": _rule(score, run),
            }
        }
        for score in run.scores
    }  # fmt: skip
    head = {"engine": HARNESS, "version": run.version, "date": run.date}
    return {**head, "model": run.model, "model_args": run.model_args, "results": results}


def _columns(run: HarnessRun) -> dict[str, float]:
    """Our numbers by the zoo's column."""
    known = {score.benchmark: score.score for score in run.scores if score.benchmark}
    return {column: value for name, value in known.items() if (column := load_benchmark(name).column)}


def _write_samples(score: TaskScore, run: HarnessRun, out: Path) -> None:
    lines = [json.dumps({**row, "model_id": run.model}, ensure_ascii=False) for row in read_samples(score)]
    if lines:
        (out / "answers" / f"{score.name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
