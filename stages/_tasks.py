"""Synthesis tasks: an image's captions and boxes as a question to a teacher, and the teacher's answer as a record.

Three kinds, as LLaVA-Instruct has them: conversation (from captions alone), detail and complex (captions and boxes).
The prompt of a task is the kind's system message, its few-shot pairs, and the context; the texts are data, in
`prompts/llava_instruct.json`, taken byte for byte from the published ones.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from llavaflow.datasets._sample import IMAGE_TOKEN, Box, Sample, Turn
from llavaflow.datasets.coco import Context
from llavaflow.stages._answers import Unusable, parse_description, parse_dialogue, parse_reasoning
from llavaflow.stages._ledger import Reply, Request

KINDS = ("conversation", "detail", "complex")
PROMPTS = "llava_instruct.json"
# LLaVA-Instruct-158K over the images that it shows: 58K, 23K and 77K of about 81K
PUBLISHED_SHARES = {"conversation": 58 / 81, "detail": 23 / 81, "complex": 77 / 81}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question about one image."""

    kind: str
    context: Context

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.context.id:012d}"

    @property
    def image(self) -> str:
        """The image as records of the published mixture name it."""
        return f"coco/train2017/{self.context.file_name}"

    def request(self, *, model: str, temperature: float, max_tokens: int) -> Request:
        prompt = prompts()[self.kind]
        messages = [{"role": "system", "content": prompt["system"]}]
        for shot in prompt["shots"]:
            messages.append({"role": "user", "content": shot["context"]})
            messages.append({"role": "assistant", "content": shot["answer"]})
        messages.append({"role": "user", "content": context_block(self.context, boxes=self.kind != "conversation")})
        return Request({"model": model, "messages": messages, "temperature": temperature, "max_tokens": max_tokens})

    def parents(self) -> list[str]:
        """The raw records that the teacher was shown, and the image."""
        shown = (name for name in self.context.parents if self.kind != "conversation" or ":caption/" in name)
        return [*shown, f"coco:image/{self.context.file_name}"]

    def sample(self, reply: Reply, seed: int) -> Sample:
        """The record in an answer. Raises Unusable."""
        if reply.finish == "length":
            raise Unusable("cut-answer")
        if reply.finish == "content_filter":
            raise Unusable("refused")
        dice = random.Random(f"{seed}/{self.id}")
        turns = [Turn(role=role, text=text) for pair in self._pairs(reply.text, dice) for role, text in pair]
        parts = [turns[0].text, IMAGE_TOKEN]
        dice.shuffle(parts)
        turns[0] = Turn(role="human", text="\n".join(parts))
        return Sample(id=self.id, source="llava-instruct", images=(self.image,), turns=tuple(turns))

    def _pairs(self, text: str, dice: random.Random) -> list[Any]:
        if self.kind == "detail":
            return [(("human", dice.choice(detail_instructions())), ("gpt", parse_description(text)))]
        parse = parse_dialogue if self.kind == "conversation" else parse_reasoning
        return [(("human", question), ("gpt", answer)) for question, answer in parse(text)]


def choose_tasks(contexts: Sequence[Context], counts: dict[str, int | None], seed: int) -> list[Task]:
    """For every kind, so many images drawn by the seed; None takes the published share of the images."""
    tasks: list[Task] = []
    for kind in KINDS:
        fit = [context for context in contexts if context.captions and (kind == "conversation" or context.boxes)]
        count = counts[kind]
        wanted = round(PUBLISHED_SHARES[kind] * len(contexts)) if count is None else count
        drawn = random.Random(f"{seed}/{kind}").sample(fit, min(wanted, len(fit)))
        tasks += [Task(kind=kind, context=context) for context in sorted(drawn, key=lambda context: context.id)]
    return tasks


def context_block(context: Context, *, boxes: bool) -> str:
    """Captions, one per line; then, with boxes, a blank line and `category: [x1, y1, x2, y2]` in 0..1 of the image."""
    text = "\n".join(context.captions)
    if not boxes:
        return text
    return text + "\n\n" + "\n".join(f"{box.label}: {_corners(box, context)}" for box in context.boxes)


def _corners(box: Box, context: Context) -> list[float]:
    wide, high = context.width, context.height
    return [round(box.x1 / wide, 3), round(box.y1 / high, 3), round(box.x2 / wide, 3), round(box.y2 / high, 3)]


@cache
def prompts() -> dict[str, Any]:
    """System message and few-shot pairs by kind."""
    return dict(json.loads((files("llavaflow.stages") / "prompts" / PROMPTS).read_text()))


@cache
def detail_instructions() -> tuple[str, ...]:
    """The phrasings that ask for a detailed description, as published."""
    return tuple(json.loads((files("llavaflow.stages") / "prompts" / "instructions.json").read_text())["detail"])
