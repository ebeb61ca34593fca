"""The held-out questions of the tiny recipe, in the layouts of the benchmarks whose rules score them.

    existence          pope      three categories, half yes and half no
    colour             gqa       testdev_balanced_questions.json
    count              vqav2     one to four in equal parts
    text               textvqa   the word on the sign, ten answers
    region grounding   refcoco   boxes of expressions, corners in pixels

Every folder also has `questions.jsonl` with the prompts as LLaVA asks them; pictures are in `eval/images`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets._scenes_coco import ten_answers, write_vqa
from llavaflow.datasets._scenes_draw import draw, jpeg
from llavaflow.datasets._scenes_files import WorldFiles
from llavaflow.datasets._scenes_sets import gqa_record
from llavaflow.datasets.scenes import PLACES, SHAPES, Scene, scene

SHORT = "Answer the question using a single word or phrase."
REGION = "Please provide the bounding box coordinate of the region this sentence describes: {}."
_POPE = ("random", "popular", "adversarial")


def write_exam(files: WorldFiles, *, seed: int, questions: int, side: int) -> None:
    """`questions` of each of the five types."""
    _existence(files, random.Random(f"pope/{seed}"), seed, questions, side)
    _colour(files, random.Random(f"colour/{seed}"), seed, questions, side)
    _count(files, random.Random(f"count/{seed}"), seed, questions, side)
    _text(files, random.Random(f"text/{seed}"), seed, questions, side)
    _grounding(files, random.Random(f"grounding/{seed}"), seed, questions, side)


def _pictures(kind: str, seed: int, side: int, sign: float = 0.35) -> Iterator[tuple[int, Scene]]:
    """Endless held-out scenes with the number of their image; each type has a range of numbers."""
    first = 100_000 * (1 + ("pope", "colour", "count", "text", "grounding").index(kind))
    number = 0
    while True:
        yield first + number, scene("test", f"{seed}/{kind}/{number}", side=side, sign=sign)
        number += 1


def _name(number: int) -> str:
    return f"{number:012d}.jpg"


def _image(files: WorldFiles, number: int, picture: Scene) -> str:
    files.image("eval", f"eval/images/{_name(number)}", jpeg(draw(picture)))
    return _name(number)


def _questions(files: WorldFiles, benchmark: str, records: Sequence[dict[str, Any]]) -> None:
    path = f"eval/{benchmark}/questions.jsonl"
    files.lines("eval", path, records, lambda row: f"{benchmark}/{row}")


def _existence(files: WorldFiles, rng: random.Random, seed: int, wanted: int, side: int) -> None:
    """Absent shapes are drawn at random, from the most frequent, and from those met with the shapes that are there."""
    pictures = _pictures("pope", seed, side)
    asked: list[dict[str, Any]] = []
    gold: dict[str, list[dict[str, Any]]] = {category: [] for category in _POPE}
    while len(asked) < wanted:
        number, picture = next(pictures)
        absent = [shape for shape in SHAPES if not picture.count(shape)]
        name = _image(files, number, picture)
        category = _POPE[len(asked) // 2 % 3]
        present = rng.choice([thing.shape for thing in picture.things])
        missing = {"random": rng.choice(absent), "popular": absent[0], "adversarial": absent[-1]}[category]
        for shape, label in ((present, "yes"), (missing, "no")):
            text = f"Is there {say.article(shape)} in the image?"
            rows = gold[category]
            rows.append({"question_id": len(rows) + 1, "image": name, "text": text, "label": label})
            question_id = (_POPE.index(category) + 1) * 10_000_000 + len(rows)
            asked.append(_asked(question_id, name, text, category))
    for category, rows in gold.items():
        body = "".join(json.dumps(row) + "\n" for row in rows)
        files.write(f"eval/pope/coco_pope_{category}.json", body.encode())
    _questions(files, "pope", asked)


def _colour(files: WorldFiles, rng: random.Random, seed: int, wanted: int, side: int) -> None:
    gold, asked = {}, []
    for number, picture in islice(_pictures("colour", seed, side), wanted):
        question = say.ask_colour(picture, rng)
        name = _image(files, number, picture)
        question_id = f"20{number:07d}"
        gold[question_id] = gqa_record(question, name.removesuffix(".jpg"))
        asked.append(_asked(question_id, name, question.text, "colour"))
    files.document("eval", "eval/gqa/testdev_balanced_questions.json", gold, {"": ("gqa_gold", None)})
    _questions(files, "gqa", asked)


def _count(files: WorldFiles, rng: random.Random, seed: int, wanted: int, side: int) -> None:
    """Of one shape or of all objects by turns; the answers one to four come equally often."""
    pictures = _pictures("count", seed, side, sign=0.15)
    asked: list[tuple[int, say.Question]] = []
    while len(asked) < wanted:
        number, picture = next(pictures)
        answer = str(1 + len(asked) % 4)
        shapes = [shape for shape in SHAPES if str(picture.count(shape)) == answer]
        shape = rng.choice(shapes) if len(asked) // 4 % 2 and shapes else None
        question = say.ask_count(picture, rng, shape=shape)
        if question.answer == answer:
            _image(files, number, picture)
            asked.append((number, question))
    write_vqa(files, "eval", "eval/vqav2", "v2_", "val2014", asked)
    rows = [
        _asked(number * 1000 + row % 1000, _name(number), question.text, "count")
        for row, (number, question) in enumerate(asked)
    ]
    _questions(files, "vqav2", rows)


def _text(files: WorldFiles, rng: random.Random, seed: int, wanted: int, side: int) -> None:
    gold: list[dict[str, Any]] = []
    asked = []
    for (number, picture), row in zip(_pictures("text", seed, side, sign=1.0), range(wanted), strict=False):
        question = say.ask_text(picture, rng)
        assert question is not None, "every picture of this type has a sign"
        name = _image(files, number, picture)
        gold.append(
            {
                "question": question.text.lower(), "image_id": name.removesuffix(".jpg"), "question_id": 34602 + row,
                "answers": [answer["answer"].lower() for answer in ten_answers(question.answer, rng)],
                "image_width": picture.width, "image_height": picture.height, "set_name": "val",
                "question_tokens": question.text.lower().rstrip("?").split(),
            }
        )  # fmt: skip
        asked.append(_asked(name.removesuffix(".jpg"), name, question.text, "text"))
    document = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": gold}
    files.document("eval", "eval/textvqa/TextVQA_0.5.1_val.json", document, {"data": ("textvqa_gold", "question_id")})
    _questions(files, "textvqa", asked)


def _grounding(files: WorldFiles, rng: random.Random, seed: int, wanted: int, side: int) -> None:
    gold, asked = [], []
    for (number, picture), row in zip(_pictures("grounding", seed, side), range(wanted), strict=False):
        thing = min(picture.things, key=lambda thing: (PLACES.index(thing.place) - row) % len(PLACES))
        text = say.reference(picture, thing, rng)
        name = _image(files, number, picture)
        box = thing.box
        gold.append(
            {
                "img_path": name, "expression": text, "bbox": [round(v, 2) for v in (box.x1, box.y1, box.x2, box.y2)],
                "dataset_name": "scenes/refcoco", "height": picture.height, "width": picture.width,
                "image_id": number, "sent_id": row, "split": "testA",
            }
        )  # fmt: skip
        asked.append({"question_id": row, "image": name, "text": REGION.format(text), "category": "grounding"})
    files.lines("eval", "eval/refcoco/REC_refcoco_unc_testA.jsonl", gold, lambda row: f"refcoco_gold/{row}")
    _questions(files, "refcoco", asked)


def _asked(question_id: int | str, image: str, text: str, category: str) -> dict[str, Any]:
    return {"question_id": question_id, "image": image, "text": f"{text}\n{SHORT}", "category": category}
