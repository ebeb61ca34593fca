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
    weights = 0.0 if offloaded and job.zero == 3 else job.resting_bytes / divided["w"]
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


def host_memory_gib(job: TrainingJob, machine: Machine) -> float:
    """What offload puts into the memory of one node: optimizer and gradients, and under ZeRO-3 the weights."""
    if job.offload != "cpu":
        return 0.0
    weights = job.resting_bytes if job.zero == 3 else 0.0
    return ((ADAM_BYTES + job.weight_bytes) * job.trainable + weights) / machine.nodes / GIB


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
