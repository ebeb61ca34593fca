"""ScienceQA: twelve epochs of school questions on a v1 projector (`llava-lcs558k-scienceqa-vicuna-13b-v1.3`).

The training file is made from the published set: `pipeline data read scienceqa --path DIR --out ...` in the QCM-LEA
format, which asks for lecture and solution before the answer.
"""

from __future__ import annotations

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_v1 as v1

first = v1.projector(v1.LCS_CAPTIONS, v1.vicuna("13b", "v1.3"))
lessons = base.own_data("scienceqa/llava_train_QCM-LEA.json", "scienceqa/train", "v1")
second = v1.instruct(lessons, first, "v1", epochs=12)

RECIPE = v1.v1_recipe(
    "scienceqa",
    "LLaVA v1 Vicuna-13B v1.3 on ScienceQA, 12 epochs",
    first=first,
    second=second,
    script="finetune_sqa.sh",
    licence="other",
    licence_note=base.LICENCE_LLAMA_1,
    benchmarks=("scienceqa",),
    sources=base.cite("finetune", base.MODEL_ZOO, "template"),
    notes=(
        "The script leaves its template to an unset variable; v1 is what the model zoo's row was answered with. The "
        "questions of the evaluation are those of llava_test_QCM-LEA.json (docs/ScienceQA.md), in the form learned."
    ),
)
