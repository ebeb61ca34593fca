"""Hours of a training job from what it computes and moves, with three constants for all machines and recipes.

Per token and parameter of the blocks: 2 FLOPs forward, 2 more where blocks are worked through again, 2 backward to the
inputs (a frozen model passes gradients on as well), 2 to the weights that train. Tokens are those that the devices
work on, padding included. Matrix products run at the rate of their arithmetic: half precision on tensor cores, float32
beside them, sixteen times slower on an A100 and eight on a V100. Elementwise work is bound by memory, not by it, and
ZeRO-3 sends every weight of the model three times per micro-step. The constants are those under which the worst of the
published times is nearest (tests/pipelines/test_hours.py has them, and what each would be estimated at by the others
alone).
"""

from __future__ import annotations

from dataclasses import dataclass

from llavaflow.infra.machine import Machine
from llavaflow.pipelines._job import TrainingJob
from llavaflow.pipelines._lengths import Lengths

# share of the peak that matrix products reach
UTILISATION = 0.65
# memory traffic of a block per token, in hidden vectors, forward, again and backward
TRAFFIC_VECTORS = 600.0
# share of the link that collectives reach
LINK_SHARE = 0.4
# a stage's start and end, not fitted: processes, weights into memory, first steps, the model written out
AROUND_HOURS = 1 / 12


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What is fitted; everything else comes from the recipe, the census and the vendor's sheet."""

    utilisation: float = UTILISATION
    traffic_vectors: float = TRAFFIC_VECTORS
    link_share: float = LINK_SHARE


def estimate_hours(
    job: TrainingJob, machine: Machine, *, per_device: int, row_tokens: int, constants: Constants | None = None
) -> float | None:
    """Wall-clock hours of the whole stage; None without a length census, or where the machine's rate is not known."""
    known, half = constants or Constants(), job.arithmetic == "half"
    rate = machine.peak_tflops if half else machine.float32_tflops
    if job.lengths is None or not machine.gpus or not rate or not machine.memory_gbs:
        return None
    tokens = job.lengths.computed(job.image_tokens, job.max_length, per_device=per_device, batching=job.batching)
    work = flops(job, job.lengths, tokens, flash=machine.bf16)
    bytes_moved = tokens * job.language.layers * job.language.hidden * job.weight_bytes * known.traffic_vectors
    seconds = work / (rate * 1e12 * known.utilisation) + bytes_moved / (machine.memory_gbs * 1e9)
    seconds /= machine.devices
    samples = job.lengths.samples
    micro_steps = (tokens / row_tokens if job.batching == "packed" else samples / per_device) / machine.devices
    return AROUND_HOURS + job.epochs * (seconds + micro_steps * _traffic_s(job, machine, known)) / 3600


def flops(job: TrainingJob, lengths: Lengths, tokens: float, *, flash: bool = True) -> float:
    """FLOPs of one epoch over these tokens. Without flash attention, causal attention works on the whole square."""
    again = 2 if job.checkpointing else 0
    learn = 2 if job.trains_language and not job.lora_rank else 0
    language = (2 + again + 2 + learn) * job.language.matrices * tokens
    # scores and weighted values
    context = tokens / lengths.samples * (1 if flash else 2)
    attention = (2 + again + 4) * job.language.layers * job.language.hidden * tokens * context
    head = 6 * job.language.vocab * job.language.hidden * tokens * 0.3
    return language + attention + head + lengths.pictures * job.tiles * picture_flops(job)


def picture_flops(job: TrainingJob) -> float:
    """FLOPs of one image of the tower's size: forward, and again and backward through the layers that train."""
    trained = job.vision.image_flops(job.vision_from_layer) if job.trains_vision else 0
    return job.vision.image_flops() + 3 * trained


def _traffic_s(job: TrainingJob, machine: Machine, known: Constants) -> float:
    """Seconds of ZeRO traffic in a micro-step that compute does not hide."""
    if job.zero < 3 or not machine.link_gbs:
        return 0.0
    bytes_sent = 3 * job.weight_bytes * job.parameters
    link = machine.link_gbs if machine.nodes == 1 else min(machine.link_gbs, machine.network_gbs * 8)
    return bytes_sent / (link * 1e9 * known.link_share)
