"""What weights are called in upstream's files and in a joined model of transformers. The projector's names are its own
file's business (`projector.py`)."""

from __future__ import annotations

TOWER = "vision_tower.vision_tower."
NEWLINE = "model.image_newline"
_HEAD = "lm_head.weight"


def original_name(name: str, body: str) -> str:
    """Upstream's name of a weight; `body`: what its names of the language model begin with."""
    if name.startswith("model.vision_tower."):
        return f"{body}{TOWER}vision_model.{name.removeprefix('model.vision_tower.')}"
    return name.replace("model.language_model.", body, 1)


def our_name(name: str, body: str) -> str:
    """The name in a joined model of a weight that upstream calls so."""
    if TOWER in name:
        return f"model.vision_tower.{name.partition(TOWER)[2].removeprefix('vision_model.')}"
    return name if name in (NEWLINE, _HEAD) else name.replace(body, "model.language_model.", 1)
