"""Lmms-eval as a second engine: its results, or a run of it, as a Scores artifact that names harness and version.

The harness runs in an environment of its own (`_lmms_run.py`). A run that is finished already needs only its folder.

    scores.json    every task with its metrics       answers/<name>.jsonl    the logged samples, with their marks
    lmms-eval/     the results file as it was        report.html, report.md  beside the published rows
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llavaflow.datasets.benchmarks._benchmark import load_benchmark
from llavaflow.infra.artifact import Artifact, Json, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError
from llavaflow.stages._lmms_results import HARNESS, HarnessRun, TaskScore, read_run, read_samples, results_file
from llavaflow.stages._lmms_run import evaluate
from llavaflow.stages._report_page import write_report
from llavaflow.stages._stage import Stage

# the harness's class for our checkpoints, and what it must be told where there is no GPU: it looks for one
HUGGING_FACE = "llava_hf"
ON_PROCESSOR = "device=cpu,device_map=cpu"


@dataclass(frozen=True, kw_only=True)
class LmmsEval(Stage):
    """A finished run (`results`, its folder or results file), or a model and the tasks to run it on.

    checkpoint: a stage or folder; `model` is the harness's class for it, `model_args` what it takes besides, and alone
    what finds a model that is no folder (`openai` and `model_version=NAME,base_url=...` for a served one).
    include: a folder with tasks of your own, in the harness's YAML.
    """

    version: ClassVar[str] = "2"
    kind: ClassVar[Kind] = "scores"
    folders_by_content: ClassVar[bool] = True

    results: Path | None = None
    checkpoint: Stage | Path | None = None
    folder: str = "model"
    model: str = HUGGING_FACE
    model_args: str = ""
    tasks: tuple[str, ...] = ("gqa", "textvqa_val", "pope", "mme")
    batch_size: int = 1
    include: Path | None = None

    def run(self, ctx: RunContext) -> Artifact:
        model = self.checkpoint is not None or bool(self.model_args)
        if (self.results is None) != model:
            raise InputError(
                "lmms-eval needs either `results`, a finished run, or what to run: a `checkpoint`, or `model_args` "
                "that find a model."
            )
        if self.results is not None:
            place, version = self.results, ""
        else:
            place, version = evaluate(self._arguments(ctx), ctx.work / HARNESS, ctx.log.info)
        found = read_run(place, version)
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

    def _arguments(self, ctx: RunContext) -> list[str]:
        """What the harness is told; the checkpoint stands first among the arguments of its model class."""
        place = ctx.path(self.checkpoint) / self.folder if isinstance(self.checkpoint, Stage) else self.checkpoint
        given = [f"pretrained={place.resolve()}"] if place is not None else []
        if self.model == HUGGING_FACE and not ctx.machine.devices:
            given.append(ON_PROCESSOR)
        arguments = ["--model", self.model, "--tasks", ",".join(self.tasks), "--batch_size", str(self.batch_size)]
        arguments += ["--model_args", ",".join((*given, *filter(None, [self.model_args])))]
        return arguments if self.include is None else [*arguments, "--include_path", str(self.include.resolve())]


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
