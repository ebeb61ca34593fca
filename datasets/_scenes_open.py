"""Open questions about held-out scenes, in the layout of LLaVA-Bench (COCO): three about each picture.

questions.jsonl                     {"question_id", "image", "text", "category"}: conv, detail, complex by turns
qa90_gpt4_answer.jsonl              the reference answer; the name is its authors', `model_id` says who wrote it
caps_boxes_coco2014_val_80.jsonl    five captions, and boxes in 0..1: what a judge reads in place of the picture
"""

from __future__ import annotations

import random
from typing import Any

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets._sample import Box
from llavaflow.datasets._scenes_draw import draw, jpeg
from llavaflow.datasets._scenes_files import WorldFiles
from llavaflow.datasets.scenes import Scene, scene

FOLDER = "eval/llava-bench-coco"
WRITER = "scenes-by-rule"
# behind the pictures of the other questions
_FIRST_IMAGE = 600_000
Exchange = tuple[str, str]


def write_open_exam(files: WorldFiles, *, seed: int, images: int, side: int) -> None:
    """Three questions about each of `images` held-out scenes."""
    rng = random.Random(f"open/{seed}")
    questions: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    contexts: list[dict[str, Any]] = []
    for number in range(images):
        picture = scene("test", f"{seed}/open/{number}", side=side)
        name = f"{_FIRST_IMAGE + number:012d}.jpg"
        files.image("eval", f"eval/images/{name}", jpeg(draw(picture)))
        captions = say.captions(picture, rng)
        contexts.append(
            {"id": name.removesuffix(".jpg"), "image": name, "captions": captions, "instances": _boxes(picture)}
        )
        asked = {"conv": _fact(picture, rng), "detail": _description(picture, captions), "complex": _reasoning(picture)}
        for category, (question, answer) in asked.items():
            row = {"question_id": len(questions), "image": name, "text": question, "category": category}
            questions.append(row)
            answers.append(
                {
                    "question_id": row["question_id"],
                    "text": answer,
                    "answer_id": f"rule{row['question_id']}",
                    "model_id": WRITER,
                }
            )
    files.lines("eval", f"{FOLDER}/questions.jsonl", questions, lambda row: f"llava-bench-coco/{row}")
    files.lines("eval", f"{FOLDER}/qa90_gpt4_answer.jsonl", answers, lambda row: f"llava-bench-coco_reference/{row}")
    files.lines(
        "eval", f"{FOLDER}/caps_boxes_coco2014_val_80.jsonl", contexts, lambda row: f"llava-bench-coco_context/{row}"
    )


def _boxes(picture: Scene) -> list[dict[str, Any]]:
    return [{"category": thing.shape, "bbox": _share(thing.box, picture)} for thing in picture.things]


def _share(box: Box, picture: Scene) -> list[float]:
    """Corners as shares of the picture's own sides."""
    wide, high = picture.width, picture.height
    return [round(box.x1 / wide, 3), round(box.y1 / high, 3), round(box.x2 / wide, 3), round(box.y2 / high, 3)]


def _fact(picture: Scene, rng: random.Random) -> Exchange:
    """One turn of a conversation: a colour, a place, a number or a word, in a whole sentence."""
    count = len(picture.things)
    facts = [
        (
            "How many objects are there?",
            f"There {'is one object' if count == 1 else f'are {say.NUMBERS[count]} objects'}.",
        )
    ]
    for thing in picture.things:
        if picture.only(shape=thing.shape) is thing:
            facts.append((f"What color is the {thing.shape}?", f"The {thing.shape} is {thing.colour}."))
        if picture.only(shape=thing.shape, colour=thing.colour) is thing:
            facts.append((f"Where is the {thing.name}?", f"The {thing.name} is at the {thing.place}."))
        if thing.word:
            facts.append(("What does the sign say?", f"The sign says {thing.word}."))
    return rng.choice(facts)


def _description(picture: Scene, captions: list[str]) -> Exchange:
    ordered = sorted(picture.things, key=lambda thing: thing.x)
    ends = ""
    if len(ordered) > 1:
        ends = f" The {say.phrase(ordered[0])} is furthest to the left, the {say.phrase(ordered[-1])} to the right."
    return "Can you describe this image in detail?", captions[0] + ends


def _reasoning(picture: Scene) -> Exchange:
    """What follows from the sizes: asked without telling anything of the picture."""
    largest = max(picture.things, key=lambda thing: thing.half_width * thing.half_height)
    name = say.phrase(largest, place=True)
    return (
        "What draws the eye first in this picture, and why?",
        f"The {name} draws the eye first, because it takes up the most space.",
    )
