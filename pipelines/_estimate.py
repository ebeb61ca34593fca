"""Estimate: one training stage on one machine, as the plan prints it and the gates judge it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.infra.machine import Machine
from llavaflow.pipelines._advice import HOST_SHARE, advice
from llavaflow.pipelines._batch import Split, micro_tokens, split_batch
from llavaflow.pipelines._hours import estimate_hours
from llavaflow.pipelines._job import TrainingJob, read_job
from llavaflow.pipelines._memory import Memory, estimate_memory, host_memory_gib
from llavaflow.stages._stage import Stage
from llavaflow.stages.train import Train


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is known beforehand; None is unknown. `change`: what would make it fit, empty when it fits.

    host: why the memory of a node, and not that of its devices, is too small for what is offloaded to it.
    """

    split: Split
    job: TrainingJob | None = None
    memory: Memory | None = None
    hours: float | None = None
    change: str = ""
    host: str = ""
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool | None:
        if not self.split.accumulation:
            return False
        return not self.change if self.memory else None


def estimate_training(
    stage: Train, machine: Machine, facts: Mapping[str, Json] | None = None, *, name: str = "finetune"
) -> Estimate:
    """Batch, memory and hours of a training stage. `facts`: of its data, once built. `name`: as the recipe calls it."""
    split = split_batch(stage, machine)
    job = read_job(stage, facts)
    if job is None or not split.accumulation:
        return Estimate(split=split, job=job, notes=tuple(filter(None, _notes(split, job, machine, stage.precision))))
    tokens = micro_tokens(job, split)
    if not machine.gpus:
        return _on_cpu(job, split, machine, estimate_memory(job, machine.ranks, tokens))
    memory = estimate_memory(job, machine.ranks, tokens)
    need, there = host_memory_gib(job, machine), HOST_SHARE * machine.memory_gib
    host = f"offload wants {need:.0f} GiB of a node's memory, {there:.0f} may be taken" if need > there else ""
    change = "" if memory.fits(machine) and not host else advice(job, machine, name)
    hours = estimate_hours(job, machine, per_device=split.per_device or 1, row_tokens=tokens)
    notes = [f"does not fit: {f'{host}; ' if host else ''}{change}"] if change else []
    return Estimate(
        split=split,
        job=job,
        memory=memory,
        hours=hours,
        change=change,
        host=host,
        notes=tuple(filter(None, [*notes, *_notes(split, job, machine, stage.precision)])),
    )


def _on_cpu(job: TrainingJob, split: Split, machine: Machine, memory: Memory) -> Estimate:
    """A full-size model without a GPU: its workers share the memory of the computer, and nobody knows the hours."""
    need = (memory.total - memory.runtime) * machine.ranks / machine.nodes
    change = f"{need:.0f} GiB of memory are needed, {machine.memory_gib:.0f} are there: choose a --machine with GPUs"
    if need <= machine.memory_gib:
        return Estimate(split=split, job=job, memory=memory)
    return Estimate(split=split, job=job, memory=memory, change=change, notes=(f"does not fit: {change}",))


def _notes(split: Split, job: TrainingJob | None, machine: Machine, precision: str) -> Iterator[str]:
    """What a reader must know of an estimate, or why there is none."""
    yield split.problem
    if not machine.gpus:
        return
    if job is None:
        yield "hours and memory not estimated: no known model in its names (models/sizes.py)"
    elif job.lengths is None:
        yield "hours not estimated: nobody counted the lengths of this data"
    else:
        yield f"lengths: {job.lengths.basis}" if job.lengths.basis else ""
    if job is not None and job.lengths is not None and not (machine.peak_tflops and machine.memory_gbs):
        yield f"hours not estimated: peak_tflops and memory_gbs of {machine.kind} are not known"
    if job is not None and not machine.bf16 and precision == "bf16":
        yield f"{machine.kind} has no bf16: estimated in fp16 (set precision=fp16)"


def unfit(stages: Mapping[str, Stage], machine: Machine) -> Iterator[str]:
    """A sentence for every training that would not fit into this machine's memory."""
    for name, stage in stages.items():
        if isinstance(stage, Train) and (change := estimate_training(stage, machine, name=name).change):
            yield f"{name} does not fit on {machine.name}: {change}"


def refuse_impossible_batches(stages: Mapping[str, Stage], machine: Machine) -> None:
    """Raise InputError when a training could not keep its global batch on this machine: nothing is started then."""
    for name, stage in stages.items():
        if isinstance(stage, Train) and not (split := estimate_training(stage, machine).split).accumulation:
            raise InputError(
                f"{name} cannot run on {machine.name}: {split.problem}. Choose such a --machine; the global batch is "
                f"part of the result and stays, unless you change it with --set {name}.global_batch=N."
            )
