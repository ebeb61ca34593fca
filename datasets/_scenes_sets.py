"""The scenes as the sets with pictures of their own: GQA, Visual Genome and TextCaps, each in its official layout."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets._scenes_draw import draw, jpeg
from llavaflow.datasets._scenes_files import WorldFiles
from llavaflow.datasets.scenes import Scene, Thing, scene


def write_gqa(files: WorldFiles, *, seed: int, images: int, side: int) -> None:
    """Balanced questions as a mapping from question id; an image id is a string that sometimes starts with n."""
    rng = random.Random(f"gqa/{seed}")
    questions: dict[str, Any] = {}
    for number in range(images):
        picture = scene("train", f"{seed}/gqa/{number}", side=side)
        image_id = f"n{2000 + number}" if number % 10 == 3 else str(2000 + number)
        files.image("gqa", f"raw/gqa/images/{image_id}.jpg", jpeg(draw(picture)))
        for position, question in enumerate(gqa_questions(picture, rng)):
            questions[f"{number:06d}{position:02d}"] = gqa_record(question, image_id)
    files.document("gqa", "raw/gqa/train_balanced_questions.json", questions, {"": ("question", None)})


def gqa_record(question: say.Question, image_id: str) -> dict[str, Any]:
    """One question in GQA's form."""
    structural = "verify" if question.answer in ("yes", "no") else "query"
    if " or " in question.text:
        structural = "choose"
    semantic = {"existence": "obj", "relation": "rel"}.get(question.kind, "attr")
    return {
        "semantic": [{"operation": "select", "dependencies": [], "argument": question.about}],
        "entailed": [],
        "equivalent": [],
        "question": question.text,
        "imageId": image_id,
        "isBalanced": True,
        "groups": {"global": None, "local": f"10-{question.kind}"},
        "answer": question.answer,
        "semanticStr": f"select: {question.about}",
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {"detailed": question.kind, "semantic": semantic, "structural": structural},
        "fullAnswer": f"The answer is {question.answer}.",
    }


def gqa_questions(picture: Scene, rng: random.Random) -> list[say.Question]:
    asked = [
        say.ask_colour(picture, rng),
        say.ask_colour(picture, rng),
        say.ask_shape(picture, rng),
        say.ask_existence(picture, rng, present=rng.random() < 0.5),
        say.ask_relation(picture, rng),
    ]
    distinct = {question.text: question for question in asked if question}
    return list(distinct.values())


def write_vg(files: WorldFiles, *, seed: int, images: int, side: int) -> None:
    """Visual Genome: regions as xywh, question and answer pairs, and the table that tells the image folder."""
    rng = random.Random(f"vg/{seed}")
    regions: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for number in range(images):
        image_id = number + 1
        picture = scene("train", f"{seed}/vg/{number}", side=side)
        folder = "VG_100K" if number % 3 else "VG_100K_2"
        files.image("vg", f"raw/vg/{folder}/{image_id}.jpg", jpeg(draw(picture)))
        url = f"https://cs.stanford.edu/people/rak248/{folder}/{image_id}.jpg"
        size = {"width": picture.width, "height": picture.height}
        pictures.append({"image_id": image_id, "url": url, **size, "coco_id": None, "flickr_id": None})
        regions.append({"id": image_id, "regions": _regions(picture, image_id, rng)})
        pairs.append({"id": image_id, "qas": _pairs(picture, image_id, rng)})
    files.document("vg", "raw/vg/image_data.json", pictures, {"": ("image_data", "image_id")})
    files.document("vg", "raw/vg/region_descriptions.json", regions, {"": ("regions", "id")})
    files.document("vg", "raw/vg/question_answers.json", pairs, {"": ("qas", "id")})


def _regions(picture: Scene, image_id: int, rng: random.Random) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for thing in picture.things:
        for text in (say.reference(picture, thing, rng), say.phrase(thing, size=True, place=True, word=True)):
            x, y, wide, high = _whole_pixels(thing)
            region_id = image_id * 100 + len(records)
            records.append(
                {
                    "region_id": region_id, "image_id": image_id, "phrase": text,
                    "x": x, "y": y, "width": wide, "height": high,
                }
            )  # fmt: skip
    return records


def _whole_pixels(thing: Thing) -> tuple[int, int, int, int]:
    box = thing.box
    x, y = round(box.x1), round(box.y1)
    return x, y, round(box.x2) - x, round(box.y2) - y


def _pairs(picture: Scene, image_id: int, rng: random.Random) -> list[dict[str, Any]]:
    asked = (say.ask_colour(picture, rng), say.ask_shape(picture, rng), say.ask_count(picture, rng))
    return [
        {
            "image_id": image_id, "qa_id": image_id * 100 + number, "question": question.text,
            "answer": f"{question.answer.capitalize()}.", "a_objects": [], "q_objects": [],
        }
        for number, question in enumerate(asked)
    ]  # fmt: skip


def write_textcaps(files: WorldFiles, *, seed: int, images: int, side: int) -> None:
    """TextCaps (five captions an image that read the sign) and the OCR tokens file that LLaVA's rows quote."""
    rng = random.Random(f"textcaps/{seed}")
    records: list[dict[str, Any]] = []
    tokens = []
    for number in range(images):
        picture = scene("train", f"{seed}/textcaps/{number}", side=side, sign=1.0)
        sign = picture.only(shape="sign")
        assert sign is not None, "every TextCaps scene has a sign"
        image_id = f"{rng.getrandbits(64):016x}"
        files.image("textcaps", f"raw/textcaps/train_images/{image_id}.jpg", jpeg(draw(picture)))
        tokens.append({"image_id": image_id, "ocr_tokens": [sign.word], "ocr_info": [{"word": sign.word}]})
        texts = _sign_captions(picture, sign, rng)
        for text in texts:
            records.append(
                {
                    "image_id": image_id, "caption_id": len(records) + 1, "caption_str": text,
                    "reference_strs": texts, "image_width": picture.width, "image_height": picture.height,
                    "image_path": f"train/{image_id}.jpg", "image_name": image_id, "set_name": "train",
                }
            )  # fmt: skip
    document = _with_header("textcaps", records)
    files.document("textcaps", "raw/textcaps/TextCaps_0.1_train.json", document, {"data": ("caption", "caption_id")})
    document = _with_header("textvqa_rosetta", tokens)
    files.document(
        "textcaps", "raw/textcaps/TextVQA_Rosetta_OCR_v0.2_train.json", document, {"data": ("ocr", "image_id")}
    )


def _with_header(name: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"dataset_type": "train", "dataset_name": name, "dataset_version": "0.1", "data": list(records)}


def _sign_captions(picture: Scene, sign: Thing, rng: random.Random) -> list[str]:
    others = [say.article(thing.name) for thing in picture.things if thing is not sign]
    beside = f" beside {say.enumeration(others)}" if others else " on its own"
    return [
        f"A {sign.colour} sign that says {sign.word}.",
        f"A sign at the {sign.place} says {sign.word}.",
        f"{sign.word} is written on {say.article(sign.colour)} sign{beside}.",
        f"A {sign.colour} sign that says {sign.word}{beside}.",
        f"The word {sign.word} on a {sign.colour} sign at the {sign.place}.",
    ]
