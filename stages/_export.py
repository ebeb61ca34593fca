"""What a training run leaves: the projector in upstream's format, and the whole model in Hugging Face's.

The projector is written in every case; a later stage, or a user of the original code, can start from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llavaflow.models import llava as llavas
from llavaflow.models import lora as loras
from llavaflow.models import projector as projectors
from llavaflow.models.llava import Llava
from llavaflow.models.lora import Lora
from llavaflow.models.marks import folded
from llavaflow.models.parts import part_of

MODEL = "model"
ADAPTER = "adapter"
SUMMARY = "training.json"


def export(
    model: Llava,
    state: Mapping[str, Any],
    out: Path,
    *,
    whole: bool,
    template: str,
    lora: Lora | None,
    counts: Sequence[Mapping[str, Any]],
    trained: Sequence[str],
    changed: Mapping[str, int],
    kernels: str,
) -> None:
    """Write `mm_projector.bin`, `config.json`, `model/` when more than the projector was trained, and adapters.

    `trained`: names of the weights that had a gradient.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = folded(state, model.mark_ids)
    projectors.write(out / projectors.FILE, projectors.from_transformers(state, model.projector, model.mark_ids))
    setattr(model.model.config, llavas.TEMPLATE_KEY, template)
    model.model.config.save_pretrained(out)
    if lora is not None:
        loras.write(out / ADAPTER, state, lora, model, [name for name in trained if part_of(name) == "vision_tower"])
        state = loras.merged(state, lora.scale)
    if whole:
        llavas.save(model, out / MODEL, state)
    summary = {
        "parts": list(counts),
        "changed_tensors": dict(changed),
        "projector": str(model.projector),
        "kernels": kernels,
    }
    (out / SUMMARY).write_text(json.dumps(summary, indent=2), "utf-8")
