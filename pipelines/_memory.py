"""GPU memory per device of a training job: what lies there through a step, item by item.

weights      all parameters in the working precision; divided over the ranks by ZeRO-3
gradients    of what trains; divided from ZeRO-2 on
optimizer    float32 master weights and two Adam moments, 12 bytes; divided from ZeRO-1 on, or on the host
activations  with checkpointing the input of every block, and one block worked through again; else every block
logits       only supervised positions reach the vocabulary
buffers      communication buckets, and the full weights of the blocks that ZeRO-3 has gathered
runtime      CUDA context, NCCL and kernels' workspaces, and a share lost to fragmentation
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from llavaflow.infra.machine import Machine
from llavaflow.pipelines._job import TrainingJob

GIB = 2**30
ADAM_BYTES = 12
RUNTIME_GIB = 1.5
FRAGMENTED = 1.05
# half of the positions carry a label at most: questions and pictures do not
SUPERVISED = 0.5
BUCKET_ELEMENTS = 2e8
LIVE_ELEMENTS = 1e9


@dataclass(frozen=True, kw_only=True)
class Memory:
    """GiB per device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float
    runtime: float = RUNTIME_GIB

    @property
    def total(self) -> float:
        return float(sum(vars(self).values())) * FRAGMENTED

    def fits(self, machine: Machine) -> bool:
        return self.total <= machine.gpu_memory_gib


def estimate_memory(job: TrainingJob, ranks: int, row_tokens: int) -> Memory:
    """The peak of a step whose micro-steps hold `row_tokens` tokens."""
    divided = {name: ranks if job.zero >= stage else 1 for name, stage in (("o", 1), ("g", 2), ("w", 3))}
    optimizer = 0.0 if job.offload == "cpu" else ADAM_BYTES * job.trainable / divided["o"]
    return Memory(
        weights=job.weight_bytes * job.parameters / divided["w"] / GIB,
        gradients=job.weight_bytes * job.trainable / divided["g"] / GIB,
        optimizer=optimizer / GIB,
        activations=_activations(job, row_tokens) / GIB,
        logits=row_tokens * SUPERVISED * job.language.vocabulary * 10 / GIB,
        buffers=_buffers(job) / GIB,
    )


def _activations(job: TrainingJob, row_tokens: int) -> float:
    language = job.language
    # a Llama block keeps about 10 hidden vectors (norms, q k v, attention, residuals) and 4 of the gated product
    block: float = row_tokens * job.weight_bytes * (10 * language.hidden + 4 * language.intermediate)
    kept = language.layers * row_tokens * language.hidden * job.weight_bytes
    total: float = kept + 2 * block if job.checkpointing else language.layers * block
    if job.trains_vision:
        pictures = max(1.0, row_tokens / max(1.0, job.image_tokens)) * job.tiles
        kept_vision = pictures * job.vision.layers * (job.vision.tokens + 1) * job.vision.hidden * job.weight_bytes
        total += kept_vision * (1 if job.checkpointing else 16)
    return total


def _buffers(job: TrainingJob) -> float:
    if job.zero == 3:
        return job.weight_bytes * (min(job.parameters, LIVE_ELEMENTS) + 2 * BUCKET_ELEMENTS / 10)
    return 2 * job.weight_bytes * min(job.trainable, BUCKET_ELEMENTS) if job.zero else 0.0


def smallest_change(job: TrainingJob, machine: Machine, row_tokens: int) -> str:
    """The first change, least costly first, with which a job fits; what is missing when none does."""
    for words, changed, row in _changes(job, row_tokens):
        if estimate_memory(changed, machine.ranks, row).fits(machine):
            return words
    need = estimate_memory(dataclasses.replace(job, zero=3, offload="cpu"), machine.ranks, job.max_length).total
    return (
        f"no setting makes it fit: even with ZeRO-3 and offload it needs {need:.0f} GiB per device; take more of them"
    )


def _changes(job: TrainingJob, row_tokens: int) -> Iterator[tuple[str, TrainingJob, int]]:
    short = min(row_tokens, job.max_length)
    if job.zero < 3:
        yield "zero=3", dataclasses.replace(job, zero=3), row_tokens
    yield "accumulate more: one sample per device and micro-step", job, short
    yield "zero=3, one sample per device and micro-step", dataclasses.replace(job, zero=3), short
    if job.trains_language and not job.lora_rank:
        adapters = dataclasses.replace(job, lora_rank=128, trains_vision=False, zero=3)
        yield "LoRA (rank 128) with zero=3, instead of full finetuning", adapters, short
    yield "zero=3 with offload=cpu", dataclasses.replace(job, zero=3, offload="cpu"), short
