"""Global batch to per-device batch and accumulation: the recipe says the first, the machine decides the others.

The product is always the global batch. Padded batches need a global batch that divides over the devices; packed ones
are dealt by tokens, so any number of devices up to the batch will do, some with one sample fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

from llavaflow.infra.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a step is split; `problem` says why it cannot be."""

    per_device: int | None = None
    accumulation: int | None = None
    row_tokens: int = 0
    problem: str = ""


def split_batch(global_batch: int, machine: Machine, *, max_length: int, row_tokens: int, batching: str) -> Split:
    """The largest per-device batch that a micro-step of `row_tokens` holds and that divides the device's share."""
    ranks = machine.ranks
    if ranks > global_batch:
        return Split(problem=f"{ranks} devices cannot share a global batch of {global_batch}: some would have nothing")
    if global_batch % ranks:
        known = [count for count in range(ranks, 0, -1) if global_batch % count == 0]
        more = next((count for count in range(ranks, global_batch + 1) if global_batch % count == 0), global_batch)
        advice = f"{known[0]} or {more} devices do"
        if batching != "packed":
            return Split(problem=f"a global batch of {global_batch} does not divide over {ranks} devices; {advice}")
        micro_steps = -(-global_batch * max_length // (ranks * row_tokens))
        uneven = f"a global batch of {global_batch} has no equal share on {ranks} devices ({advice}); dealt by tokens"
        return Split(accumulation=micro_steps, row_tokens=row_tokens, problem=uneven)
    share = global_batch // ranks
    limit = max(1, row_tokens // max_length)
    per_device = max(size for size in range(1, share + 1) if share % size == 0 and size <= limit)
    return Split(per_device=per_device, accumulation=share // per_device, row_tokens=row_tokens)
