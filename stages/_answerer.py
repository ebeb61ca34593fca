"""The worker side of an evaluation: load a checkpoint once, then answer batches of questions about pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

GREY = (127, 127, 127)


def make_answerer(
    *, checkpoint: str, template: str, images: str, threads: int
) -> Callable[[list[dict[str, Any]]], list[str]]:
    """A function from a batch of questions to their greedy answers."""
    import torch

    from llavaflow.models.generate import Question, answers, pixels, prompt_ids
    from llavaflow.models.llava import load

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    llava = load(checkpoint, precision="bf16" if device == "cuda" else "float32")
    llava.model.to(device)

    def answer(batch: list[dict[str, Any]]) -> list[str]:
        # what an answer may be long never depends on its neighbours, so neither does the answer
        return [
            reply
            for limit, rows in groupby(batch, key=lambda row: int(row["max_new_tokens"]))
            for reply in answers(llava, questions_of(rows), template_name=template, max_new_tokens=limit)
        ]

    def questions_of(batch: Iterable[dict[str, Any]]) -> list[Question]:
        asked = []
        for row in batch:
            if row["shown"] is None:
                asked.append(Question(prompt_ids(llava, template, [("human", str(row["text"]))])))
                continue
            image = open_image(Path(images) / str(row["shown"]), str(row["variant"]))
            ids = prompt_ids(llava, template, [("human", f"<image>\n{row['text']}")], [image.size])
            asked.append(Question(ids, pixels(llava, image), image.size))
        return asked

    return answer


def open_image(path: Path, variant: str) -> Any:
    """The picture of a variant: as it is, or grey in the same size."""
    from PIL import Image

    with Image.open(path) as image:
        return Image.new("RGB", image.size, GREY) if variant == "blank" else image.convert("RGB")
