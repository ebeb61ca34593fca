"""Global batch to per-device batch and accumulation: the recipe says the first, the machine decides the others.

The product is always the global batch. Padded batches need a global batch that divides over the devices; packed ones
are dealt by tokens, so any number of devices up to the batch will do, some with one sample fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llavaflow.infra.machine import Machine
from llavaflow.stages.train import row_tokens

if TYPE_CHECKING:
    from llavaflow.pipelines._job import TrainingJob


class Batched(Protocol):
    """What says how its samples are batched: a training stage, or what is known of one."""

    @property
    def global_batch(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def batching(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a step is split; `problem` says why it cannot be. `row_tokens`: that a micro-step of a device may hold."""

    row_tokens: int
    per_device: int | None = None
    accumulation: int | None = None
    problem: str = ""


def split_batch(work: Batched, machine: Machine) -> Split:
    """The largest per-device batch that a micro-step of this machine holds and that divides the device's share."""
    ranks, batch, row = machine.ranks, work.global_batch, row_tokens(machine)
    if ranks > batch:
        problem = f"{ranks} devices cannot share a global batch of {batch}: some would have nothing"
        return Split(row_tokens=row, problem=problem)
    if batch % ranks:
        known = next(count for count in range(ranks, 0, -1) if batch % count == 0)
        more = next((count for count in range(ranks, batch + 1) if batch % count == 0), batch)
        advice = f"{known} or {more} devices do"
        if work.batching != "packed":
            problem = f"a global batch of {batch} does not divide over {ranks} devices; {advice}"
            return Split(row_tokens=row, problem=problem)
        uneven = f"a global batch of {batch} has no equal share on {ranks} devices ({advice}); dealt by tokens"
        micro_steps = -(-batch * work.max_length // (ranks * row))
        return Split(row_tokens=row, accumulation=micro_steps, problem=uneven)
    share = batch // ranks
    limit = max(1, row // work.max_length)
    per_device = max(size for size in range(1, share + 1) if share % size == 0 and size <= limit)
    return Split(row_tokens=row, per_device=per_device, accumulation=share // per_device)


def micro_tokens(job: TrainingJob, split: Split) -> int:
    """Tokens that a micro-step may meet: a packed row is full, a padded batch as long as its longest sample."""
    longest = job.longest()
    return max(split.row_tokens, longest) if job.batching == "packed" else (split.per_device or 1) * longest
