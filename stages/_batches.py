"""From the tokenised corpus to the tensors of one optimizer step: where data sets and models meet.

Dataset item i is optimizer step i of the whole run, for one worker: which samples, in which rows, is the planner's
answer to (seed, epoch, step). So the cursor of a checkpoint is one number, and loader processes may prepare steps in
parallel without changing anything. Images are decoded and normalised in those processes, straight out of the shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from llavaflow.datasets._shards import ImageTable
from llavaflow.infra.errors import LlavaflowError
from llavaflow.models.balance import balance
from llavaflow.models.images import ImageRule, dummy, layout, transform
from llavaflow.models.labels import IGNORE, Encoded
from llavaflow.models.packing import Longs, Plan, collate_packed, collate_padded, plan_epoch
from llavaflow.models.pixels import open_image
from llavaflow.models.samplers import grouped_by_modality
from llavaflow.stages._corpus import Corpus, Row

if TYPE_CHECKING:
    import numpy.typing as npt

Batching = Literal["packed", "padded", "grouped"]
UPSTREAM_DEVICES = 8
Micro = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What decides which samples meet in a step, and how they are laid out for the workers of this run.

    row_tokens   how many tokens a packed row may hold
    per_device   samples of a padded micro-batch
    fold_tokens  where attention works on a dense mask (no varlen kernel), a row longer than this is folded into several
                 that go side by side: attention costs the square of a row. The worker knows, the stage does not
    """

    batching: Batching
    global_batch: int
    seed: int
    epochs: int
    workers: int
    row_tokens: int
    per_device: int
    fold_tokens: int | None = None


@dataclass(slots=True)
class StepBatch:
    """What one worker computes in one optimizer step, and the numbers that all workers add up before it.

    `samples`: the numbers of the samples in `micros`, as they were laid there.
    """

    micros: list[Micro]
    supervised: list[int]
    tokens: int = 0
    places: int = 0
    samples: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def pin_memory(self) -> StepBatch:
        """What a loader calls when its batches go to a GPU."""
        self.micros = [{name: tensor.pin_memory() for name, tensor in micro.items()} for micro in self.micros]
        return self

    def on(self, device: torch.device) -> list[Micro]:
        """The micro-batches on a device; the copies run beside what it computes."""
        return [{name: tensor.to(device, non_blocking=True) for name, tensor in micro.items()} for micro in self.micros]


class Steps(Dataset[StepBatch]):
    """The run as a map from optimizer step to one worker's batch."""

    def __init__(self, corpus: Corpus, data: Path, rule: ImageRule, order: Order, rank: int, pad_id: int) -> None:
        self.corpus = corpus
        self.rule = rule
        self.order = order
        self.rank = rank
        self.pad_id = pad_id
        self.table = ImageTable(data)

    @cached_property
    def plans(self) -> list[Plan]:
        """One plan per epoch."""
        return [self._plan(epoch) for epoch in range(self.order.epochs)]

    def __len__(self) -> int:
        return sum(len(plan) for plan in self.plans)

    def samples(self, index: int) -> list[int]:
        """The numbers of the samples that all workers together compute in a step."""
        epoch, within = divmod(index, len(self.plans[0]))
        numbers: list[int] = self.plans[epoch].samples(within).tolist()
        return numbers

    def __getitem__(self, index: int) -> StepBatch:
        epoch, within = divmod(index, len(self.plans[0]))
        rows = self.plans[epoch].step(within).rows
        batch = StepBatch(micros=[], supervised=[])
        for micro in rows:
            self._add(batch, micro[self.rank])
        return batch

    def _plan(self, epoch: int) -> Plan:
        order, lengths = self.order, self.corpus.lengths
        return plan_epoch(
            lengths,
            global_batch=order.global_batch,
            ranks=order.workers,
            max_row=max(order.row_tokens, int(lengths.max(initial=1))),
            seed=order.seed,
            epoch=epoch,
            order=self._grouped(epoch) if order.batching == "grouped" else None,
            deal="packed" if order.batching == "packed" else "upstream",
            per_device=order.per_device,
        )

    def _grouped(self, epoch: int) -> Longs:
        """Upstream's grouping by modality and length, for the 8 devices its scripts were written for."""
        order = self.order
        return grouped_by_modality(
            self.corpus.modality_lengths,
            per_device=max(1, order.global_batch // UPSTREAM_DEVICES),
            world=UPSTREAM_DEVICES,
            seed=order.seed,
            epoch=epoch,
        )

    def _add(self, batch: StepBatch, samples: Longs) -> None:
        parts = _folded(samples, self.corpus.lengths[samples], self.order)
        rows = [[self.corpus[int(sample)] for sample in part] for part in parts]
        flat = [row for part in rows for row in part]
        tiles, index = self._images(flat, np.concatenate(parts), batch)
        micro = _collate(rows, self.order, self.pad_id)
        micro["pixel_values"] = torch.from_numpy(tiles)
        micro["image_index"] = torch.from_numpy(index)
        batch.micros.append(micro)
        batch.supervised.append(int((micro["labels"][:, 1:] != IGNORE).sum()))
        batch.tokens += sum(len(row.encoded) for row in flat)
        batch.places += micro["input_ids"].numel()
        batch.samples += np.concatenate(parts).tolist()

    def _images(
        self, rows: Sequence[Row], samples: Longs, batch: StepBatch
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Tiles of all images of a micro-batch and, per image token, the row of its feature."""
        tiles: list[npt.NDArray[np.float32]] = []
        index: list[npt.NDArray[np.int64]] = []
        base = 0
        for row, sample in zip(rows, samples.tolist(), strict=True):
            for image in row.images:
                part, place = self._image(image, row, sample, batch)
                tiles.append(part)
                index.append(np.where(place < 0, -1, place + base))
                base += len(part) * self.rule.tile_tokens
        if not tiles:
            return dummy(self.rule), np.zeros(0, np.int64)
        return np.concatenate(tiles), np.concatenate(index)

    def _image(
        self, image: str, row: Row, sample: int, batch: StepBatch
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Tiles and feature places of one image. A broken one is recorded, and its sample teaches nothing."""
        width, height = self.table.size(image)
        place = layout(self.rule, width, height)
        try:
            return transform(self.rule, open_image(self.table.open(image), upright=self.rule.upright)), place
        except LlavaflowError as error:
            batch.broken.append(f"{self.corpus.name(sample)}: {image}: {error}")
            row.encoded.labels.fill(IGNORE)
            return dummy(self.rule), np.zeros(len(place), np.int64)


def _collate(parts: Sequence[Sequence[Row]], order: Order, pad_id: int) -> Micro:
    """Rows as tensors. A worker without samples computes one token without a label, to stay in step."""
    samples = [[row.encoded for row in part] for part in parts if part] or [[_nothing(pad_id)]]
    if order.batching != "packed":
        padded = collate_padded(samples[0], pad_id)
        positions = np.broadcast_to(np.arange(padded.input_ids.shape[1]), padded.input_ids.shape)
        return _tensors(padded.input_ids, padded.labels, positions)
    packed = [collate_packed(part) for part in samples]
    return _tensors(
        _stacked([row.input_ids[0] for row in packed], pad_id),
        _stacked([row.labels[0] for row in packed], IGNORE),
        _stacked([row.position_ids[0] for row in packed], 0),
    )


def _folded(samples: Longs, lengths: Longs, order: Order) -> tuple[Longs, ...]:
    """The samples of a row as one row, or dealt to several of nearly equal length when attention needs a dense mask."""
    total = int(lengths.sum())
    if order.batching != "packed" or order.fold_tokens is None or total <= order.fold_tokens:
        return (samples,)
    rows = balance(samples, lengths, ranks=-(-total // order.fold_tokens), max_row=total)[0]
    return tuple(row for row in rows if len(row))


def _stacked(rows: Sequence[Longs], fill: int) -> Longs:
    """Rows side by side, padded on the right. Position 0 makes every padding token a segment of its own."""
    stacked = np.full((len(rows), max(len(row) for row in rows)), fill, np.int64)
    for number, row in enumerate(rows):
        stacked[number, : len(row)] = row
    return stacked


def _nothing(pad_id: int) -> Encoded:
    return Encoded(input_ids=np.array([pad_id], np.int32), labels=np.array([IGNORE], np.int32))


def _tensors(ids: Longs, labels: Longs, positions: Longs) -> Micro:
    arrays = {"input_ids": ids, "labels": labels, "position_ids": positions}
    return {name: torch.from_numpy(np.array(array, np.int64)) for name, array in arrays.items()}


def loader(steps: Steps, start: int, processes: int, *, pin_memory: bool) -> DataLoader[StepBatch]:
    """Steps from `start` on, prepared ahead by worker processes and delivered in order."""
    return DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, len(steps)),
        num_workers=processes,
        prefetch_factor=4 if processes else None,
        pin_memory=pin_memory,
        multiprocessing_context="fork" if processes else None,
    )
