"""Which samples form an optimizer step, and how its samples are dealt to ranks without padding.

Order first: seed and epoch alone decide it, so neither the number of workers nor a restart changes what a step holds.
Step i is always samples [i * global_batch, (i + 1) * global_batch) of that order; the last one may be smaller.

Then the deal. "packed": the samples of a step are laid end to end in rows, one row per rank and micro-step, none longer
than `max_row` tokens, of nearly equal length within a micro-step because the longest rank decides how long the others
wait. "upstream": per-device batches in order, padded to their longest sample, as the Hugging Face trainer does.

    plan = plan_epoch(lengths, global_batch=128, ranks=8, max_row=16384, seed=0, epoch=0)
    plan.step(7).rows[micro][rank]    # sample numbers; any step at any time, so a step number is the whole cursor

A rank may get an empty row when a step holds fewer samples than there are ranks; it must run a dummy then.

`collate_packed` lays the samples of a row end to end for a model of transformers 5: positions restart at each sample,
and there is no attention mask, because the restarts are what the model builds its block-diagonal mask from (a mask of
ones switches that off, and so does a key-value cache: call the model with `use_cache=False`). `block_mask` is the same
mask written out, for a model that cannot derive it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from llavaflow.infra.errors import InputError
from llavaflow.models.balance import balance
from llavaflow.models.labels import IGNORE, Encoded

Longs = npt.NDArray[np.int64]
Deal = Literal["packed", "upstream"]


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: its samples in order, and rows[micro][rank] of sample numbers."""

    index: int
    samples: Longs
    rows: tuple[tuple[Longs, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An epoch: steps are worked out when asked for, so a plan costs nothing to make and any step can come first."""

    lengths: Longs
    order: Longs
    global_batch: int
    ranks: int
    max_row: int
    deal: Deal = "packed"
    per_device: int = 1

    def __len__(self) -> int:
        return -(-len(self.order) // self.global_batch)

    @property
    def last_batch(self) -> int:
        """Samples in the last step; smaller than the global batch when the data does not divide evenly."""
        return len(self.order) - (len(self) - 1) * self.global_batch if len(self.order) else 0

    def samples(self, index: int) -> Longs:
        """The samples of a step, in order."""
        return self.order[index * self.global_batch : (index + 1) * self.global_batch]

    def step(self, index: int) -> Step:
        if not 0 <= index < len(self):
            raise IndexError(f"step {index} of {len(self)}")
        samples = self.samples(index)
        if self.deal == "upstream":
            return Step(index, samples, _in_order(samples, self.ranks, self.per_device))
        return Step(index, samples, balance(samples, self.lengths[samples], self.ranks, self.max_row))

    def steps(self, start: int = 0) -> Iterator[Step]:
        return (self.step(index) for index in range(start, len(self)))

    def fill(self, steps: Iterable[int] | None = None) -> float:
        """Real tokens over what the ranks compute or wait for: ranks x the longest rank, summed over micro-steps."""
        real = spent = 0
        for index in range(len(self)) if steps is None else steps:
            for micro in self.step(index).rows:
                loads = [self._load(row) for row in micro]
                real += sum(int(self.lengths[row].sum()) for row in micro)
                spent += self.ranks * max(loads)
        return real / spent if spent else 1.0

    def _load(self, row: Longs) -> int:
        lengths = self.lengths[row]
        if self.deal == "upstream":
            return int(lengths.max(initial=0)) * len(row)
        return int(lengths.sum())


def plan_epoch(
    lengths: Sequence[int] | npt.NDArray[np.integer],
    *,
    global_batch: int,
    ranks: int,
    max_row: int,
    seed: int,
    epoch: int,
    order: Longs | None = None,
    deal: Deal = "packed",
    per_device: int = 1,
    drop_last: bool = False,
) -> Plan:
    """The plan of one epoch; `order` replaces the shuffle (see `models/samplers.py`), `lengths` count image tokens."""
    sizes = np.asarray(lengths, np.int64)
    _check(sizes, global_batch, ranks, max_row, deal, per_device)
    if order is None:
        order = shuffled(len(sizes), seed, epoch)
    if drop_last:
        order = order[: len(order) // global_batch * global_batch]
    return Plan(
        lengths=sizes,
        order=order,
        global_batch=global_batch,
        ranks=ranks,
        max_row=max_row,
        deal=deal,
        per_device=per_device,
    )


def shuffled(count: int, seed: int, epoch: int) -> Longs:
    """A permutation that depends on seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)


def _check(sizes: Longs, global_batch: int, ranks: int, max_row: int, deal: Deal, per_device: int) -> None:
    if min(global_batch, ranks, max_row, per_device) < 1:
        raise InputError(f"global batch {global_batch}, ranks {ranks}, row {max_row}: all must be at least 1")
    if len(sizes) and int(sizes.min()) < 1:
        raise InputError(f"sample {int(sizes.argmin())} has length {int(sizes.min())}: drop empty samples first")
    if deal == "packed" and len(sizes) and int(sizes.max()) > max_row:
        raise InputError(
            f"sample {int(sizes.argmax())} has {int(sizes.max())} tokens and no row may hold more than {max_row}: "
            "raise the row length or lower the maximum sample length"
        )
    if deal == "upstream" and global_batch % (ranks * per_device):
        raise InputError(f"global batch {global_batch} is no multiple of {ranks} ranks x {per_device} samples")


def _in_order(samples: Longs, ranks: int, per_device: int) -> tuple[tuple[Longs, ...], ...]:
    width = ranks * per_device
    micros = [samples[start : start + width] for start in range(0, len(samples), width)]
    return tuple(tuple(micro[rank * per_device : (rank + 1) * per_device] for rank in range(ranks)) for micro in micros)


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """One row: samples end to end, shape (1, tokens); what variable-length attention kernels need beside it."""

    input_ids: Longs
    labels: Longs
    position_ids: Longs
    segment_ids: Longs
    cu_seqlens: npt.NDArray[np.int32]

    @property
    def max_length(self) -> int:
        return int(np.diff(self.cu_seqlens).max(initial=0))

    @property
    def supervised(self) -> int:
        """Tokens that the loss counts, once labels are shifted by one."""
        return int((self.labels[:, 1:] != IGNORE).sum())


def collate_packed(samples: Sequence[Encoded]) -> Packed:
    """The samples of one row end to end. No sample's last token is asked to predict the next sample's first."""
    lengths = [len(sample) for sample in samples]
    edges = np.cumsum([0, *lengths])
    labels = np.concatenate([sample.labels for sample in samples]).astype(np.int64)
    labels[edges[:-1]] = IGNORE
    return Packed(
        input_ids=np.concatenate([sample.input_ids for sample in samples]).astype(np.int64)[None],
        labels=labels[None],
        position_ids=np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])[None],
        segment_ids=np.repeat(np.arange(len(samples)), lengths)[None],
        cu_seqlens=edges.astype(np.int32),
    )


def block_mask(segment_ids: Longs) -> npt.NDArray[np.bool_]:
    """(1, 1, tokens, tokens): true where a token may look, at itself and back within its own sample."""
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return np.asarray(np.tril(same))


@dataclass(frozen=True, kw_only=True, slots=True)
class Padded:
    """Samples side by side, padded on the right: upstream's batch, shape (samples, longest)."""

    input_ids: Longs
    labels: Longs
    attention_mask: Longs


def collate_padded(samples: Sequence[Encoded], pad_token_id: int) -> Padded:
    """Upstream's collation; the mask comes from the lengths, so a pad id that occurs in text does no harm."""
    shape = (len(samples), max(len(sample) for sample in samples))
    ids, labels, mask = (
        np.full(shape, pad_token_id, np.int64),
        np.full(shape, IGNORE, np.int64),
        np.zeros(shape, np.int64),
    )
    for place, sample in enumerate(samples):
        ids[place, : len(sample)] = sample.input_ids
        labels[place, : len(sample)] = sample.labels
        mask[place, : len(sample)] = 1
    return Padded(input_ids=ids, labels=labels, attention_mask=mask)
