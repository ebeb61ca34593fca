"""Finetune a LLaVA checkpoint on your own LLaVA JSON: `--set data.file=my.json --set data.images=DIR`.

The numbers are upstream's for this task (scripts/v1_5/finetune_task.sh): the projector is already inside the
checkpoint, so nothing is pretrained. Every record is checked before anything is trained. Unlike upstream, samples are
packed: a set of one's own is often all of one kind, where grouping by modality does nothing.
"""

from __future__ import annotations

from llavaflow.pipelines import _full_size as shared
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.base import Base
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.train import Train

SCRIPT = "haotian-liu/LLaVA scripts/v1_5/finetune_task.sh"

base = Base()
data = OwnData(template="v1")
finetune = Train(
    data=data,
    base=Pretrained(stage=base, folder="model"),
    template="v1",
    image_aspect="pad",
    trainable=("mm_projector", "language_model"),
    learning_rate=2e-5,
    global_batch=128,
    zero=3,
    batching="packed",
    **shared.COMMON,
)

RECIPE = Recipe(
    name="finetune-task",
    title="Finetune a LLaVA checkpoint on your own data, all of the language model",
    stages={"base": base, "data": data, "finetune": finetune},
    sources={
        path: source
        for path, source in shared.cite_script("finetune", finetune, SCRIPT).items()
        if path != "finetune.batching"
    },
)
