"""GPU memory per device of a training job: what lies there through a step, item by item.

weights      all parameters in the working precision; divided over the ranks by ZeRO-3, with offload on the host
gradients    of what trains; divided from ZeRO-2 on, with offload on the host
optimizer    float32 master weights and two Adam moments, 12 bytes; divided from ZeRO-1 on, or on the host
activations  with checkpointing the input of every block, and one block worked through again; else every block
logits       only supervised positions reach the vocabulary
update       a float32 copy of the gradients and AdamW's root of the second moment, 8 bytes; under ZeRO-3 of one
             sub-group at a time
buffers      communication buckets, and the full weights of the blocks that ZeRO-3 has gathered
runtime      CUDA context, NCCL and kernels' workspaces

What comes and goes within a step is counted in full, with a share lost to fragmentation: memory that the allocator
holds for activations is not free for the update. Reports of users fix that share (tests/pipelines/test_hours.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from llavaflow.infra.machine import Machine
from llavaflow.pipelines._job import TrainingJob

GIB = 2**30
ADAM_BYTES = 12
UPDATE_BYTES = 8
RUNTIME_GIB = 1.5
FRAGMENTED = 1.3
# half of the positions carry a label at most: questions and pictures do not
SUPERVISED = 0.5
BUCKET_ELEMENTS = 2e8
LIVE_ELEMENTS = 1e9
# `sub_group_size` of infra/deepspeed/zero3.json
SUB_GROUP_ELEMENTS = 1e9


@dataclass(frozen=True, kw_only=True)
class Memory:
    """GiB per device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    update: float
    buffers: float
    runtime: float = RUNTIME_GIB

    @property
    def total(self) -> float:
        """The peak of a step."""
        stays = self.weights + self.gradients + self.optimizer + self.runtime
        return stays + FRAGMENTED * (self.activations + self.logits + self.update + self.buffers)

    def fits(self, machine: Machine) -> bool:
        return self.total <= machine.gpu_memory_gib


def estimate_memory(job: TrainingJob, ranks: int, row_tokens: int) -> Memory:
    """The peak of a step whose micro-steps hold `row_tokens` tokens."""
    divided = {name: ranks if job.zero >= stage else 1 for name, stage in (("o", 1), ("g", 2), ("w", 3))}
    offloaded = job.offload == "cpu"
    on_device = 0.0 if offloaded else job.trainable / divided["o"]
    weights = 0.0 if offloaded and job.zero == 3 else job.weight_bytes * job.parameters / divided["w"]
    gradients = 0.0 if offloaded else job.weight_bytes * job.trainable / divided["g"]
    return Memory(
        weights=weights / GIB,
        gradients=gradients / GIB,
        optimizer=ADAM_BYTES * on_device / GIB,
        activations=_activations(job, row_tokens) / GIB,
        logits=row_tokens * SUPERVISED * job.language.vocab * 10 / GIB,
        update=UPDATE_BYTES * (min(on_device, SUB_GROUP_ELEMENTS) if job.zero == 3 else on_device) / GIB,
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
        kept_vision = pictures * job.vision.kept_values() * job.weight_bytes
        total += kept_vision * (1 if job.checkpointing else 16)
    return total


def _buffers(job: TrainingJob) -> float:
    if job.zero == 3:
        return job.weight_bytes * (min(job.parameters, LIVE_ELEMENTS) + 2 * BUCKET_ELEMENTS / 10)
    return 2 * job.weight_bytes * min(job.trainable, BUCKET_ELEMENTS) if job.zero else 0.0


def smallest_change(job: TrainingJob, machine: Machine, row_tokens: int) -> str:
    """The first setting, least costly first, with which a job fits, or the number of devices that holds it as it is.

    The size of a micro-step is no setting: it follows from the device's memory, and accumulation from it.
    """
    ranks = machine.ranks
    settings = next((words for words, to in _changes(job) if estimate_memory(to, ranks, row_tokens).fits(machine)), "")
    more = next((count for count in _more(ranks) if estimate_memory(job, count, row_tokens).fits(machine)), None)
    devices = f"{more} devices of this kind" if more and job.zero else ""
    if settings or devices:
        return " or ".join(filter(None, (settings, devices)))
    need = estimate_memory(dataclasses.replace(job, zero=3, offload="cpu"), ranks, row_tokens).total
    return f"nothing on this kind of machine: even ZeRO-3 with offload needs {need:.0f} GiB per device"


def _more(ranks: int) -> Iterator[int]:
    """Counts that whole boxes come in: twice as many, four times, up to sixty-four."""
    return (ranks << doubled for doubled in range(1, 7))


def _changes(job: TrainingJob) -> Iterator[tuple[str, TrainingJob]]:
    if job.zero < 3:
        yield "zero=3", dataclasses.replace(job, zero=3)
    if job.trains_language and not job.lora_rank:
        adapters = dataclasses.replace(job, lora_rank=128, trains_vision=False, zero=3)
        yield "LoRA (rank 128) with zero=3, instead of full finetuning", adapters
    yield "zero=3 with offload=cpu", dataclasses.replace(job, zero=3, offload="cpu")
