"""Who answers the questions of an evaluation: here a checkpoint in Ray workers, in `_served.py` a server's model.

An answerer takes questions and yields their greedy answers in the same order, as they come. What is asked, how it is
scored and the ledger that survives a kill are the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from llavaflow.infra.context import RunContext
from llavaflow.infra.ray import map_batches
from llavaflow.stages._exam import Asked, as_row

GREY = (127, 127, 127)
BATCH = 64


class Answerer(Protocol):
    """Greedy answers to questions, in their order; `refused` is how many of them it was denied, answered empty."""

    refused: int

    def __call__(self, asked: Sequence[Asked]) -> Iterator[str]: ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint from outside, in any format: Hugging Face, original LLaVA, or an adapter with its `base`.

    vision: the tower, where neither names it.
    """

    path: Path
    base: Path | None = None
    vision: str | None = None

    def __str__(self) -> str:
        return f"{self.path} on {self.base}" if self.base else str(self.path)


@dataclass
class CheckpointAnswerer:
    """Answers from a pool of workers, one per device, each with the checkpoint in memory.

    template: empty is the checkpoint's own.
    """

    ctx: RunContext
    checkpoint: Checkpoint
    template: str
    images: Path
    refused: int = 0

    def __call__(self, asked: Sequence[Asked]) -> Iterator[str]:
        machine = self.ctx.machine
        workers = machine.devices or max(1, machine.cores)
        return map_batches(
            [as_row(question) for question in asked],
            make_worker,
            arguments={
                "checkpoint": self.checkpoint,
                "template": self.template,
                "images": self.images,
                "threads": 4 if machine.devices else 1,
            },
            batch_size=BATCH,
            workers=min(workers, -(-len(asked) // BATCH) or 1),
            gpus_per_worker=1 if machine.devices else 0,
        )


def make_worker(
    *, checkpoint: Checkpoint, template: str, images: Path, threads: int
) -> Callable[[list[dict[str, Any]]], list[str]]:
    """The worker side: load the checkpoint once, then answer batches of questions."""
    import torch

    from llavaflow.models.backbone import precision_here
    from llavaflow.models.generate import Question, answers, pixels, prompt_ids
    from llavaflow.models.llava import template_of
    from llavaflow.models.opening import open_checkpoint

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    llava = open_checkpoint(
        checkpoint.path,
        base=checkpoint.base,
        vision=checkpoint.vision,
        precision=precision_here(),
    )
    llava.model.to(device)
    form = template or template_of(llava.model.config)

    def answer(batch: list[dict[str, Any]]) -> list[str]:
        # how long an answer may be never depends on its neighbours, so neither does the answer
        return [
            reply
            for limit, rows in groupby(batch, key=lambda row: int(row["max_new_tokens"]))
            for reply in answers(llava, questions_of(rows), template_name=form, max_new_tokens=limit)
        ]

    def questions_of(batch: Iterable[dict[str, Any]]) -> list[Question]:
        asked = []
        for row in batch:
            if row["shown"] is None:
                asked.append(Question(prompt_ids(llava, form, [("human", str(row["text"]))])))
                continue
            image = open_image(images / str(row["shown"]), str(row["variant"]))
            ids = prompt_ids(llava, form, [("human", f"<image>\n{row['text']}")], [image.size])
            asked.append(Question(ids, pixels(llava, image), image.size))
        return asked

    return answer


def open_image(path: Path, variant: str) -> Any:
    """The picture of a variant: as it is, or grey in the same size."""
    from PIL import Image

    with Image.open(path) as image:
        return Image.new("RGB", image.size, GREY) if variant == "blank" else image.convert("RGB")
