"""Advice: the smallest change with which a training fits a machine, as arguments that can be given to the command.

Smallest is what changes the result least, then what costs least: smaller micro-steps (more accumulation), ZeRO-3,
offload to the host's memory, half precision, and only then adapters in place of the whole model. More devices of the
kind stand beside them. Every way is tried with the largest micro-step that fits.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace

from llavaflow.infra.machine import Machine
from llavaflow.pipelines._batch import micro_tokens, split_batch
from llavaflow.pipelines._job import TrainingJob
from llavaflow.pipelines._memory import estimate_memory, host_memory_gib

# of a node's memory, for a training that is offloaded to it
HOST_SHARE = 0.9
# haotian-liu/LLaVA scripts/v1_5/finetune_lora.sh
ADAPTERS = ("lora.r=128", "lora.alpha=256", "learning_rate=2e-4", "projector_lr=2e-5")
BOX = 8


@dataclass(frozen=True, kw_only=True)
class Way:
    """A job that would fit: what it is in words, the settings of its stage, and the machine as `--machine` takes it."""

    words: str
    settings: tuple[str, ...]
    machine: str

    def arguments(self, stage: str) -> str:
        """As the command line takes it."""
        given = [f"--set {stage}.{setting}" for setting in self.settings]
        return " ".join([*given, *([f"--machine {shlex.quote(self.machine)}"] if self.machine else [])])

    def told(self, stage: str) -> str:
        return f"{self.words} ({self.arguments(stage)})"


def advice(job: TrainingJob, machine: Machine, stage: str) -> str:
    """What would make a job fit that does not: the smallest change first, then the others."""
    found = [way for way in _ways(job, machine) if way]
    if found:
        first, *others = (way.told(stage) for way in found)
        return f"the smallest change that does is {first}{''.join(f', or {other}' for other in others)}"
    least, what = replace(job, zero=3, offload="cpu"), "even ZeRO-3 with offload"
    if job.quantized_bits:
        least, what = job, "it"
    need = min(estimate_memory(least, machine.ranks, tokens).total for _, tokens in _micro_steps(job, machine))
    host = host_memory_gib(least, machine)
    beside = f" and {host:.0f} GiB of a node's memory" if host > HOST_SHARE * machine.memory_gib else ""
    return f"nothing does on this kind of machine; {what} needs {need:.0f} GiB per device{beside}"


def _ways(job: TrainingJob, machine: Machine) -> Iterator[Way | None]:
    yield _fitting("smaller micro-steps, more accumulation", job, (), machine)
    whole = job.trains_language and not job.lora_rank
    if job.quantized_bits:
        yield _more_devices(job, machine)
        return
    if job.zero < 3:
        yield _fitting("ZeRO-3", replace(job, zero=3), ("zero=3",), machine)
    if job.offload == "none":
        off = replace(job, zero=3, offload="cpu")
        yield _fitting("ZeRO-3 with offload, slower", off, ("zero=3", "offload=cpu"), machine)
    # DeepSpeed scales the loss of fp16 under ZeRO alone
    if job.arithmetic == "float32" and (machine.bf16 or job.zero):
        half = replace(job, arithmetic="half", weight_bytes=2)
        yield _fitting("half precision", half, (f"precision={'bf16' if machine.bf16 else 'fp16'}",), machine)
    yield _more_devices(job, machine)
    if whole:
        alone = ("trainable=mm_projector,language_model", "vision_lr=none", "vision_from_layer=0")
        settings = (*ADAPTERS, *(["zero=3"] if job.zero < 3 else []), *(alone if job.trains_vision else ()))
        adapters = replace(job, lora_rank=128, trains_vision=False, zero=3)
        yield _fitting("LoRA instead of the whole model", adapters, settings, machine)


def _more_devices(job: TrainingJob, machine: Machine) -> Way | None:
    """Twice as many, four times, up to sixty-four: a box is filled before there are more of them."""
    box = machine
    for _ in range(6):
        gpus, nodes = (box.gpus * 2, box.nodes) if box.gpus * 2 <= max(BOX, machine.gpus) else (box.gpus, box.nodes * 2)
        box = replace(box, gpus=gpus, nodes=nodes)
        if way := _fitting(f"{box.devices} devices", job, (), box):
            return replace(way, machine=way.machine or box.spec)
    return None


def _fitting(words: str, job: TrainingJob, settings: tuple[str, ...], machine: Machine) -> Way | None:
    """The way with the largest micro-step that fits; None when not even the smallest does."""
    if host_memory_gib(job, machine) > HOST_SHARE * machine.memory_gib:
        return None
    usual = split_batch(job, machine).row_tokens
    for row, tokens in _micro_steps(job, machine):
        if estimate_memory(job, machine.ranks, tokens).fits(machine):
            box = machine if row == usual else replace(machine, row_tokens=row)
            return Way(words=words, settings=settings, machine="" if row == usual else box.spec)
    return None


def _micro_steps(job: TrainingJob, machine: Machine) -> Iterator[tuple[int, int]]:
    """(setting, tokens) of the micro-steps a device may take, from the usual one down to the smallest."""
    seen: set[int] = set()
    row = split_batch(job, machine).row_tokens
    while row:
        split = split_batch(job, replace(machine, row_tokens=row))
        if not split.accumulation:
            return
        tokens = micro_tokens(job, split)
        if tokens not in seen:
            seen.add(tokens)
            yield row, tokens
        row //= 2
