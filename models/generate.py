"""Greedy answers from a LLaVA model, many at a time: what evaluation, `pipeline ask` and spot checks share.

    asked = [Question(prompt_ids(llava, "v1", [("human", "<image>\\nWhat is it?")], [size]), pixels(llava, image))]
    answers(llava, asked, template_name="v1", max_new_tokens=16)

Questions are sorted by length, padded on the left and answered in batches; the order of the result is that of the
questions, and padding does not change an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llavaflow.models.images import Floats, count_tokens, layout, transform
from llavaflow.models.labels import encode_prompt
from llavaflow.models.llava import Llava
from llavaflow.models.templates import Turns, template

if TYPE_CHECKING:
    import torch
    from PIL import Image

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt as tokens, image tokens expanded, and the pixels and (width, height) of its image if it has one."""

    input_ids: Ints
    pixels: Floats | None = None
    size: tuple[int, int] | None = None


def prompt_ids(llava: Llava, template_name: str, turns: Turns, image_sizes: Sequence[tuple[int, int]] = ()) -> Ints:
    """Tokens of a prompt that is open for the assistant's answer; sizes are (width, height) of its images."""
    return encode_prompt(
        turns,
        template=template(template_name, llava.im_start_end),
        tokenizer=llava.tokenizer,
        image_token_id=llava.image_token_id,
        image_tokens=[count_tokens(llava.image_rule, *size) for size in image_sizes],
    )


def pixels(llava: Llava, image: Image.Image) -> Floats:
    """An image as the model was trained to get it."""
    return transform(llava.image_rule, image)


def ask(llava: Llava, template_name: str, text: str, image: Image.Image | None, max_new_tokens: int = 128) -> str:
    """The answer to one question about one image."""
    turns = [("human", f"<image>\n{text}" if image is not None else text)]
    ids = prompt_ids(llava, template_name, turns, [image.size] if image is not None else [])
    asked = Question(ids, pixels(llava, image), image.size) if image is not None else Question(ids)
    return answers(llava, [asked], template_name=template_name, max_new_tokens=max_new_tokens)[0]


def answers(
    llava: Llava, questions: Sequence[Question], *, template_name: str, max_new_tokens: int, batch_size: int = 64
) -> list[str]:
    """Greedy answers, in the order of the questions, without end marks."""
    form = template(template_name)
    order = sorted(range(len(questions)), key=lambda place: len(questions[place].input_ids))
    texts: dict[int, str] = {}
    stop_ids = form.stop_token_ids(llava.tokenizer)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        for place, ids in zip(
            places, _generate(llava, [questions[p] for p in places], stop_ids, max_new_tokens), strict=True
        ):
            text = llava.tokenizer.decode(ids, skip_special_tokens=True)
            texts[place] = _before(text, form.stop).strip()
    return [texts[place] for place in range(len(questions))]


def _generate(llava: Llava, batch: Sequence[Question], stop_ids: list[int], max_new_tokens: int) -> Iterator[list[int]]:
    import torch

    ids, mask = _left_padded([question.input_ids for question in batch], llava.tokenizer.pad_token_id)
    model = llava.model.eval()
    with torch.inference_mode():
        inputs = _inputs(llava, batch, ids.to(model.device))
        output = model.generate(
            **inputs,
            attention_mask=mask.to(model.device),
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=stop_ids,
            pad_token_id=llava.tokenizer.pad_token_id,
        )
    # from embeddings, only what is new comes back
    yield from output[:, ids.shape[1] if "input_ids" in inputs else 0 :].tolist()


def _inputs(llava: Llava, batch: Sequence[Question], ids: torch.Tensor) -> dict[str, Any]:
    """Tokens and pixels; for images in tiles the embeddings, put together as in training."""
    import torch

    shown = [question.pixels for question in batch if question.pixels is not None]
    if not shown:
        return {"input_ids": ids}
    tiles = torch.from_numpy(np.concatenate(shown)).to(llava.model.device, llava.model.dtype)
    rule = llava.image_rule
    if rule.aspect != "anyres":
        return {"input_ids": ids, "pixel_values": tiles}
    from llavaflow.models.objective import Objective

    places, base = [], 0
    for question in batch:
        if question.pixels is not None and question.size is not None:
            place = layout(rule, *question.size)
            places.append(np.where(place < 0, -1, place + base))
            base += len(question.pixels) * rule.tile_tokens
    index = torch.from_numpy(np.concatenate(places)).to(llava.model.device)
    return {"inputs_embeds": Objective(llava.model).embeddings(ids, tiles, index)}


def _left_padded(rows: Sequence[Ints], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    width = max(len(row) for row in rows)
    ids, mask = torch.full((len(rows), width), pad_id), torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.from_numpy(row.astype(np.int64))
        mask[number, width - len(row) :] = 1
    return ids, mask


def _before(text: str, marks: Sequence[str]) -> str:
    """The text up to the first end mark that is not a token of its own (`###`)."""
    ends = [text.find(mark) for mark in marks if mark in text]
    return text[: min(ends)] if ends else text
