"""LLaVA-1.6 Mistral-7B: tiles of 336 pixels, everything trained; no script was published, see the notes."""

from __future__ import annotations

from llavaflow.pipelines import _llava_next as next_
from llavaflow.stages._pretrained import Pretrained

RECIPE = next_.llava16(
    "llava16-mistral-7b",
    "Mistral-7B",
    Pretrained(hub="mistralai/Mistral-7B-Instruct-v0.2"),
    "mistral_instruct",
    licence="apache-2.0",
    licence_note="The language model is Mistral-7B-Instruct v0.2, under Apache-2.0.",
    zero=2,
)
