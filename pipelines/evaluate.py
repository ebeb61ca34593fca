"""Evaluate a model of your own: a checkpoint in any format, or whatever an OpenAI-compatible server has loaded.

    pipeline run evaluate-checkpoint --set evaluate.model.path=FOLDER [--set evaluate.model.base=FOLDER for an adapter]
    pipeline run evaluate-served --set evaluate.model.url=http://HOST:PORT/v1 --set evaluate.model.model=NAME
    pipeline run evaluate-lmms-eval --set evaluate.results=FOLDER          what lmms-eval has scored, under its name
    pipeline run evaluate-lmms-eval --set evaluate.results=none --set evaluate.checkpoint=FOLDER      lmms-eval itself

Questions and gold lie below `--set questions.folder=FOLDER` as stages/questions.py says; which benchmarks are asked is
set in both stages. Prompts, greedy decoding and the padded square are LLaVA-1.5's. A server (vLLM, SGLang) applies its
own conversation template and image rule; the key it may want goes into $LLAVAFLOW_MODEL_KEY.
"""

from __future__ import annotations

from pathlib import Path

from llavaflow.pipelines import _full_size as shared
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._answerer import Checkpoint
from llavaflow.stages._served import Served
from llavaflow.stages.evaluate import Evaluate
from llavaflow.stages.lmms_eval import LmmsEval


def _recipe(name: str, title: str, model: Checkpoint | Served) -> Recipe:
    questions = shared.exam(shared.V15_BENCHMARKS)
    evaluate = Evaluate(
        model=model,
        questions=questions,
        benchmarks=questions.benchmarks,
        variants=("images",),
        template="",
        max_new_tokens=128,
    )
    return Recipe(name=name, title=title, stages={"questions": questions, "evaluate": evaluate})


_RECIPES = (
    _recipe("evaluate-checkpoint", "Scores of a checkpoint of your own", Checkpoint(path=Path("checkpoint"))),
    _recipe(
        "evaluate-served",
        "Scores of a model behind an OpenAI-compatible server",
        Served(url="http://127.0.0.1:8000/v1", model="llava"),
    ),
)

_LMMS_EVAL = Recipe(
    name="evaluate-lmms-eval",
    title="Scores of a finished run of lmms-eval, or of a checkpoint that it evaluates",
    stages={"evaluate": LmmsEval(results=Path("lmms-eval"))},
)

RECIPES = {recipe.name: recipe for recipe in (*_RECIPES, _LMMS_EVAL)}
