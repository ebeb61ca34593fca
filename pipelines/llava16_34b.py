"""LLaVA-1.6 Hermes-Yi-34B: tiles of 336 pixels, everything trained; no script was published, see the notes."""

from __future__ import annotations

from llavaflow.pipelines import _llava_next as next_
from llavaflow.stages._pretrained import Pretrained

RECIPE = next_.llava16(
    "llava16-34b",
    "Hermes-Yi-34B",
    Pretrained(hub="NousResearch/Nous-Hermes-2-Yi-34B"),
    "chatml_direct",
    licence="apache-2.0",
    licence_note="The language model is Nous-Hermes-2-Yi-34B, under Apache-2.0.",
    zero=3,
    # 34B weights whole on every device, as ZeRO-2 keeps them, leave no room on 80 GB
    pretrain_zero=3,
)
