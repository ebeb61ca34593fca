"""A training run with everything resolved: what travels from the stage to the workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llavaflow.models.backbone import Precision
from llavaflow.models.engine import Offload, Optimization
from llavaflow.models.kernels import Wishes
from llavaflow.models.llava import Design
from llavaflow.models.lora import Lora
from llavaflow.models.templates import Rule
from llavaflow.stages._batches import Order
from llavaflow.stages._trackers import Tracking

Loss = Literal["token", "micro-batch-mean"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that a worker needs to know.

    base      a whole LLaVA checkpoint; else `vision` and `language` are joined and `projector` is read
    whole     write the whole model at the end; else the projector alone
    wishes    kernels that are forced or forbidden
    """

    data: Path
    out: Path
    work: Path
    vision: str
    language: str
    base: str | None
    projector: Path | None
    design: Design
    trainable: tuple[str, ...]
    vision_from_layer: int
    optimization: Optimization
    order: Order
    template: str
    masking: Rule
    max_length: int
    loss: Loss
    lora: Lora | None
    zero: int
    offload: Offload
    precision: Precision
    gradient_checkpointing: bool
    broken_images: Literal["fail", "skip"]
    save_every_steps: int
    loader_processes: int
    whole: bool
    wishes: Wishes
    tracking: Tracking

    @property
    def files(self) -> list[Path]:
        """What a worker reads from disk; a model that is a hub name is none of it."""
        models = [Path(name) for name in (self.vision, self.language, self.base) if name and Path(name).is_absolute()]
        return [self.data, self.out, *models, *([self.projector] if self.projector else [])]
