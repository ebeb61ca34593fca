"""LLaVA-1.6 Vicuna-7B: tiles of 336 pixels, everything trained; no script was published, see the notes."""

from __future__ import annotations

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_next as next_
from llavaflow.stages._pretrained import Pretrained

RECIPE = next_.llava16(
    "llava16-vicuna-7b",
    "Vicuna-7B",
    Pretrained(hub="lmsys/vicuna-7b-v1.5"),
    "v1",
    licence="llama2",
    licence_note=base.LICENCE_LLAMA_2,
    zero=2,
)
