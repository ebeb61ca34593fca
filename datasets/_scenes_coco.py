"""The scenes as COCO, and the five question sets that stand on COCO's pictures: VQAv2, OK-VQA, A-OKVQA and RefCOCO.

All files have the layout and field names in which their authors publish them, and some of the dirt of the real files:
captions with white space at the edges, six captions instead of five, a grey picture, a picture without annotations
and annotations whose picture is missing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets._scenes_draw import draw, jpeg
from llavaflow.datasets._scenes_files import WorldFiles
from llavaflow.datasets.scenes import CATEGORY_IDS, Scene, Thing, scene

Numbered = tuple[int, Scene]


def write_coco(files: WorldFiles, *, seed: int, images: int, side: int) -> list[Numbered]:
    """COCO pictures, captions and instances. Returns the annotated scenes by image id; ids have gaps."""
    rng = random.Random(f"coco/{seed}")
    numbered = [(7 + 3 * number, scene("train", f"{seed}/coco/{number}", side=side)) for number in range(images)]
    for number, (image_id, picture) in enumerate(numbered):
        if number % 200 == 150:
            continue
        image = draw(picture)
        grey = number % 300 == 299
        files.image("coco", f"raw/coco/train2017/{file_name(image_id)}", jpeg(image.convert("L") if grey else image))
    annotated = [pair for number, pair in enumerate(numbered) if number % 200 != 175]
    header = {"info": {"description": "generated scenes"}, "licenses": [{"id": 1, "name": "CC0"}]}
    pictures = [_picture(image_id, picture) for image_id, picture in annotated]
    folder = "raw/coco/annotations"
    document = {**header, "images": pictures, "annotations": _captions(annotated, rng)}
    files.document("coco", f"{folder}/captions_train2017.json", document, {"annotations": ("caption", "id")})
    document = {**header, "images": pictures, "annotations": _instances(annotated), "categories": categories()}
    files.document("coco", f"{folder}/instances_train2017.json", document, {"annotations": ("instance", "id")})
    return annotated


def write_vqav2(files: WorldFiles, numbered: Sequence[Numbered], *, seed: int) -> None:
    rng = random.Random(f"vqav2/{seed}")
    asked = [(image_id, question) for image_id, picture in numbered for question in vqa_questions(picture, rng)]
    write_vqa(files, "vqav2", "raw/vqav2", "v2_", "train2014", asked)


def write_okvqa(files: WorldFiles, numbered: Sequence[Numbered], *, seed: int) -> None:
    rng = random.Random(f"okvqa/{seed}")
    asked = [(image_id, say.ask_knowledge(picture, rng)) for image_id, picture in numbered]
    write_vqa(files, "okvqa", "raw/okvqa", "", "train2014", asked)


def write_vqa(
    files: WorldFiles, source: str, folder: str, prefix: str, subset: str, asked: Sequence[tuple[int, say.Question]]
) -> None:
    """The two files of a VQA set, joined on question_id: ten answers each, a few of them off."""
    rng = random.Random(f"answers/{source}/{subset}")
    questions, annotations = [], []
    for number, (image_id, question) in enumerate(asked):
        question_id = image_id * 1000 + number % 1000
        questions.append({"image_id": image_id, "question": question.text, "question_id": question_id})
        annotations.append(
            {
                "question_type": " ".join(question.text.lower().split()[:2]),
                "multiple_choice_answer": question.answer,
                "answers": ten_answers(question.answer, rng),
                "image_id": image_id,
                "answer_type": _answer_type(question.answer),
                "question_id": question_id,
            }
        )
    header = {"info": {"version": "2.0"}, "data_type": "mscoco", "data_subtype": subset, "license": {"name": "CC0"}}
    name = f"{folder}/{prefix}OpenEnded_mscoco_{subset}_questions.json"
    document = {**header, "task_type": "Open-Ended", "questions": questions}
    files.document(source, name, document, {"questions": ("question", "question_id")})
    name = f"{folder}/{prefix}mscoco_{subset}_annotations.json"
    files.document(source, name, {**header, "annotations": annotations}, {"annotations": ("annotation", "question_id")})


def write_aokvqa(files: WorldFiles, numbered: Sequence[Numbered], *, seed: int) -> None:
    rng = random.Random(f"aokvqa/{seed}")
    records = []
    for image_id, picture in numbered:
        asked = rng.choice((say.ask_colour, say.ask_shape))(picture, rng)
        options, right = say.choices(asked, rng)
        why = f"The object at the {asked.about} is {say.article(asked.answer)}."
        records.append(
            {
                "split": "train",
                "image_id": image_id,
                "question_id": f"{rng.getrandbits(64):022d}",
                "question": asked.text,
                "choices": options,
                "correct_choice_idx": right,
                "direct_answers": [asked.answer] * 10,
                "difficult_direct_answer": False,
                "rationales": [why] * 3,
            }
        )
    files.document("aokvqa", "raw/aokvqa/aokvqa_v1p0_train.json", records, {"": ("question", "question_id")})


def write_refcoco(files: WorldFiles, numbered: Sequence[Numbered], *, seed: int) -> None:
    """RefCOCO's refs as a list (one ref per thing, some with two sentences) beside its instances file, boxes xywh."""
    rng = random.Random(f"refcoco/{seed}")
    refs: list[dict[str, Any]] = []
    sent_id = 0
    for image_id, picture in numbered:
        for number, thing in enumerate(picture.things):
            texts = sorted({say.reference(picture, thing, rng) for _ in range(2)})
            sentences = []
            for text in texts:
                sentences.append({"sent_id": sent_id, "sent": text, "raw": text, "tokens": text.split()})
                sent_id += 1
            refs.append(
                {
                    "ref_id": len(refs),
                    "ann_id": image_id * 10 + number,
                    "image_id": image_id,
                    "file_name": f"COCO_train2014_{image_id:012d}_{image_id * 10 + number}.jpg",
                    "category_id": CATEGORY_IDS[thing.shape],
                    "split": "train",
                    "sent_ids": [sentence["sent_id"] for sentence in sentences],
                    "sentences": sentences,
                }
            )
    files.document("refcoco", "raw/refcoco/refs(unc).json", refs, {"": ("ref", "ref_id")})
    pictures = [_picture(image_id, picture) for image_id, picture in numbered]
    document = {"images": pictures, "annotations": _instances(numbered), "categories": categories()}
    files.document("refcoco", "raw/refcoco/instances.json", document, {"annotations": ("instance", "id")})


def file_name(image_id: int) -> str:
    return f"{image_id:012d}.jpg"


def categories() -> list[dict[str, Any]]:
    return [{"id": number, "name": name, "supercategory": "shape"} for name, number in CATEGORY_IDS.items()]


def xywh(thing: Thing) -> list[float]:
    box = thing.box
    return [round(value, 2) for value in (box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1)]


def ten_answers(answer: str, rng: random.Random) -> list[dict[str, Any]]:
    """Ten humans: nearly all agree; now and then one is unsure and says something else."""
    said = [answer] * 10
    if rng.random() < 0.1:
        said[rng.randrange(10)] = "not sure"
    return [
        {"answer": text, "raw_answer": text, "answer_confidence": "yes" if text == answer else "maybe", "answer_id": n}
        for n, text in enumerate(said, start=1)
    ]


def vqa_questions(picture: Scene, rng: random.Random) -> list[say.Question]:
    """The questions on one VQAv2 picture: existence, colour, counts, and the word when there is a sign."""
    present = rng.random() < 0.5
    asked = [
        say.ask_existence(picture, rng, present=present),
        say.ask_existence(picture, rng, present=not present),
        say.ask_colour(picture, rng),
        say.ask_count(picture, rng, shape=None if rng.random() < 0.5 else rng.choice(picture.things).shape),
        say.ask_text(picture, rng),
    ]
    return rng.sample([question for question in asked if question], sum(question is not None for question in asked))


def _picture(image_id: int, picture: Scene) -> dict[str, Any]:
    name = file_name(image_id)
    url = f"http://images.cocodataset.test/train2017/{name}"
    size = {"width": picture.width, "height": picture.height}
    return {"id": image_id, "file_name": name, **size, "license": 1, "coco_url": url}


def _captions(numbered: Sequence[Numbered], rng: random.Random) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for position, (image_id, picture) in enumerate(numbered):
        texts = say.captions(picture, rng)
        if position % 50 == 20:
            texts.append(texts[1])
        for text in texts:
            dirty = rng.choice((f"{text} ", f" {text}", f"{text}\n")) if rng.random() < 0.05 else text
            records.append({"image_id": image_id, "id": 100 + len(records), "caption": dirty})
    return records


def _instances(numbered: Sequence[Numbered]) -> list[dict[str, Any]]:
    records = []
    for image_id, picture in numbered:
        for number, thing in enumerate(picture.things):
            x, y, wide, high = xywh(thing)
            corners = [x, y, x + wide, y, x + wide, y + high, x, y + high]
            records.append(
                {
                    "id": image_id * 10 + number,
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS[thing.shape],
                    "bbox": [x, y, wide, high],
                    "area": round(wide * high, 2),
                    "iscrowd": 0,
                    "segmentation": [[round(value, 2) for value in corners]],
                }
            )
    return records


def _answer_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.isdigit() else "other"
