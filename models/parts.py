"""The parts of a LLaVA model: which of them train, how large they are, and the proof of what changed.

Parts carry upstream's words. Inside a training tower the layers after the selected one, and the head, get no gradient
and stay frozen; `vision_from_layer` freezes the early layers too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.models.llava import Llava
from llavaflow.models.lora import is_adapter
from llavaflow.models.vision import shape_of

if TYPE_CHECKING:
    import torch

Part = Literal["mm_projector", "language_model", "vision_tower"]
PARTS: tuple[Part, ...] = ("mm_projector", "language_model", "vision_tower")
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_STAGE = re.compile(r"\.stages\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class PartCount:
    """Parameters of a part: how many there are and how many of them train."""

    part: str
    parameters: int
    trainable: int

    def __str__(self) -> str:
        return f"{self.part}: {self.trainable:,} of {self.parameters:,} parameters train"


def part_of(name: str) -> Part:
    """The part that a parameter belongs to. What is neither tower nor projector counts as language model, except rows
    of <im_start> and <im_end> that learn by themselves: they belong to the projector and travel with it."""
    if "vision_tower" in name:
        return "vision_tower"
    return "mm_projector" if "multi_modal_projector" in name or name.endswith(".marks") else "language_model"


def set_trainable(
    llava: Llava, parts: Iterable[str], vision_from_layer: int = 0, *, adapters: bool = False
) -> list[PartCount]:
    """Freeze everything, then unfreeze these parts; returns the counts per part.

    With adapters, the language model trains through them alone.
    """
    wanted = set(parts)
    if not wanted or wanted - set(PARTS):
        raise InputError(f"trainable parts {sorted(wanted)}: choose at least one of {', '.join(PARTS)}.")
    for name, parameter in llava.model.named_parameters():
        part = part_of(name)
        learns = part in wanted
        if part == "vision_tower":
            learns = learns and in_use(name, llava, vision_from_layer)
        if part == "mm_projector" and llava.projector.depth < 2:
            # the identity matrices that stand for missing layers must stay what they are
            learns = learns and (name.endswith(".marks") or (llava.projector.depth == 1 and ".linear_1." in name))
        if part == "language_model" and adapters:
            learns = learns and is_adapter(name)
        parameter.requires_grad_(learns)
    return counts(llava.model.named_parameters())


def counts(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> list[PartCount]:
    """Parameter counts per part, in the order of PARTS."""
    total: dict[str, list[int]] = {part: [0, 0] for part in PARTS}
    for name, parameter in parameters:
        size = getattr(parameter, "ds_numel", parameter.numel())
        total[part_of(name)][0] += size
        total[part_of(name)][1] += size if parameter.requires_grad else 0
    return [PartCount(part=part, parameters=all_, trainable=some) for part, (all_, some) in total.items()]


def in_use(name: str, llava: Llava, from_layer: int = 0) -> bool:
    """Whether a weight of the tower shapes the image tokens, in this layer or above it."""
    config = llava.model.config
    if shape_of(config).kind == "convnext":
        stage = _STAGE.search(name)
        # the last norm is for pooling, which LLaVA does not use
        return int(stage.group(1)) >= from_layer if stage else from_layer == 0 and ".layernorm." not in name
    match = _LAYER.search(name)
    if match:
        selected: int = config.vision_feature_layer
        last = selected if selected >= 0 else config.vision_config.num_hidden_layers + 1 + selected
        return from_layer <= int(match.group(1)) < last
    return from_layer == 0 and "post_layernorm" not in name and ".head." not in name


def checksums(state: Iterable[tuple[str, torch.Tensor]]) -> dict[str, int]:
    """A number per tensor that changes when any bit of it does (sum of the raw words, exact in int64)."""
    import torch

    words = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name: int(value.detach().contiguous().view(words[value.element_size()]).sum(dtype=torch.int64))
        for name, value in state
    }


def check_changes(before: Mapping[str, int], after: Mapping[str, int], trained: Iterable[str]) -> dict[str, int]:
    """Changed tensors per part; StageFailed when a frozen tensor changed or a trained part did not change at all."""
    names = set(trained)
    changed = {name for name, value in before.items() if after.get(name, value) != value}
    if changed - names:
        raise StageFailed(f"frozen weights changed during training: {', '.join(sorted(changed - names)[:5])}.")
    still = {part_of(name) for name in names} - {part_of(name) for name in changed}
    if still:
        raise StageFailed(f"nothing in {', '.join(sorted(still))} changed although it trained: is its learning rate 0?")
    return {part: sum(part_of(name) == part for name in changed) for part in PARTS}
