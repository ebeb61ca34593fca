"""The DeepSpeed engine round the objective: settings, optimizer, schedule, one optimizer step.

ZeRO settings are shipped JSON (`infra/deepspeed/`), and they hold nothing but ZeRO: an optimizer or scheduler there
would silently override the recipe's (that happened upstream), so `engine_config` refuses them. Batch sizes and
accumulation are not DeepSpeed's business either: a step is what the planner says it is, and DeepSpeed is told when the
last micro-batch of a step has come.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.models.backbone import Precision
from llavaflow.models.parts import Part, part_of

if TYPE_CHECKING:
    import torch

Offload = Literal["none", "cpu"]
FORBIDDEN = ("optimizer", "scheduler")
# of fp16, as in upstream's settings: dynamic from 2^16 on, halved after two overflows, doubled after 1,000 steps
LOSS_SCALING = {
    "loss_scale": 0,
    "initial_scale_power": 16,
    "loss_scale_window": 1000,
    "hysteresis": 2,
    "min_loss_scale": 1,
}
# how DeepSpeed says that it cannot be halved any more
_LEAST_SCALE = "loss scale already at minimum"


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """What an optimizer step does. Learning rates of parts fall back to `learning_rate`."""

    learning_rate: float
    projector_lr: float | None = None
    vision_lr: float | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: str = "cosine"
    warmup_ratio: float = 0.03
    steps: int = 1

    def rate_of(self, part: Part) -> float:
        own = {"mm_projector": self.projector_lr, "vision_tower": self.vision_lr}.get(part)
        return self.learning_rate if own is None else own


def engine_config(zero: int, offload: Offload, precision: Precision, max_grad_norm: float) -> dict[str, Any]:
    """DeepSpeed's configuration: the shipped ZeRO block and what the recipe decides."""
    name = f"zero{zero}{'_offload' if offload == 'cpu' else ''}.json"
    path = files("llavaflow.infra") / "deepspeed" / name
    if not path.is_file():
        raise InputError(f"no DeepSpeed settings {name}: offload exists for ZeRO 2 and 3.")
    settings: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if set(settings) & set(FORBIDDEN):
        raise InputError(f"{name} sets {' and '.join(FORBIDDEN)}: these belong to the recipe, take them out.")
    return settings | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"} | LOSS_SCALING,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


def parameter_groups(
    parameters: Sequence[tuple[str, torch.nn.Parameter]], optimization: Optimization
) -> list[dict[str, Any]]:
    """Groups by part and by decay: vectors (biases, norms) do not decay."""
    groups: dict[tuple[Part, bool], list[Any]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault((part_of(name), parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": members,
            "lr": optimization.rate_of(part),
            "weight_decay": optimization.weight_decay if decays else 0.0,
            "part": part,
        }
        for (part, decays), members in groups.items()
    ]


def start(objective: torch.nn.Module, optimization: Optimization, settings: dict[str, Any]) -> Any:
    """The engine, with torch's AdamW and transformers' schedule counted in optimizer steps."""
    import deepspeed
    import torch
    from transformers import get_scheduler

    _use_gloo_alone()
    groups = parameter_groups(list(objective.named_parameters()), optimization)
    optimizer = torch.optim.AdamW(groups, lr=optimization.learning_rate, betas=(0.9, 0.999), eps=1e-8)
    warmup = warmup_steps(optimization.steps, optimization.warmup_ratio)
    scheduler = get_scheduler(optimization.schedule, optimizer, warmup, optimization.steps)
    engine, *_ = deepspeed.initialize(
        model=objective, optimizer=optimizer, lr_scheduler=scheduler, config=settings, dist_init_required=False
    )
    _keep_norm(engine)
    return engine


def _keep_norm(engine: Any) -> None:
    """Without ZeRO and in float32 DeepSpeed clips gradients and forgets their norm, which the log and the guard ask."""
    from deepspeed.runtime.utils import clip_grad_norm_

    def clip() -> None:
        parameters, most = engine.module.parameters(), engine.gradient_clipping()
        engine._global_grad_norm = clip_grad_norm_(parameters, max_norm=most, mpu=engine.mpu)

    engine.clip_fp32_gradients = clip


def warmup_steps(steps: int, ratio: float) -> int:
    """Optimizer steps of warm-up: transformers' ceiling, but never all of them.

    The first step of a warm-up has the learning rate 0, so that a run of one step would learn nothing.
    """
    return min(math.ceil(steps * ratio), steps - 1)


def _use_gloo_alone() -> None:
    """Keep DeepSpeed from compiling shared-memory collectives for CPUs at every start.

    It would need a C++ compiler, take half a minute, and wait forever for the lock of a build that was killed.
    """
    # not `import ... as`: that would find the name `torch` in deepspeed.comm, which is the other torch
    import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]


def step(engine: Any, micros: Sequence[Mapping[str, torch.Tensor]], scales: Sequence[float]) -> float:
    """One optimizer step over micro-batches; returns this rank's summed loss.

    `scales[i]` multiplies the summed loss of micro-batch i before the gradients of all ranks are averaged.
    """
    losses = []
    for number, (micro, scale) in enumerate(zip(micros, scales, strict=True), 1):
        engine.set_gradient_accumulation_boundary(number == len(micros))
        loss = engine(**micro)
        engine.backward(loss * scale)
        # read after the step: asking for a number makes the GPU wait
        losses.append(loss.detach())
    try:
        engine.step()
    except Exception as error:
        if _LEAST_SCALE not in str(error):
            raise
        raise StageFailed(
            "the gradients overflow fp16 at the smallest loss scale. Train in bf16 or float32, or with a lower "
            "learning rate."
        ) from error
    return sum(float(loss) for loss in losses)


def gathered(engine: Any) -> dict[str, torch.Tensor]:
    """The full weights on the CPU of rank 0 under the model's own names; empty elsewhere. Every rank must call it."""
    import deepspeed
    import torch.distributed as distributed

    first = distributed.get_rank() == 0
    state: dict[str, Any] = {}
    for name, tensor in _own_tensors(engine):
        with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
            if first:
                state[name] = tensor.detach().cpu().clone()
    return state


def _own_tensors(engine: Any) -> Iterator[tuple[str, Any]]:
    for name, tensor in engine.module.state_dict(keep_vars=True).items():
        yield name.removeprefix("llava."), tensor
