"""A small raw folder for every source, in its authors' layout and with the dirt of the real files.

Shared by the tests of the sources (fixture `raw`).
"""

from __future__ import annotations

import gzip
import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import Reading, source


def dump(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def answers(*texts: str) -> list[dict[str, Any]]:
    return [{"answer": text, "raw_answer": text, "answer_id": n} for n, text in enumerate(texts)]


def vqav2(root: Path) -> None:
    questions = [
        {"question_id": 10, "image_id": 1, "question": " What is it? "},
        {"question_id": 20, "image_id": 2, "question": "Is it <image> red?"},
        {"question_id": "11", "image_id": "1", "question": "How many?"},
        {"question_id": 11, "image_id": 1, "question": "How many again?"},
        {"question_id": 12, "image_id": 1, "question": ""},
        {"question_id": 13, "image_id": 1, "question": "No annotation?"},
        {"question_id": 14, "image_id": 1, "question": "Nothing said?"},
    ]
    notes = [
        {"question_id": 10, "multiple_choice_answer": "a cat", "answers": []},
        {"question_id": 20, "answers": answers("yes", "no", "yes")},
        {"question_id": 11, "multiple_choice_answer": 2, "answers": []},
        {"question_id": 12, "multiple_choice_answer": "x", "answers": []},
        {"question_id": 14, "multiple_choice_answer": "", "answers": []},
        {"question_id": 99, "multiple_choice_answer": "x", "answers": []},
    ]
    dump(root / "v2_OpenEnded_mscoco_train2014_questions.json", {"info": {}, "questions": questions})
    dump(root / "v2_mscoco_train2014_annotations.json", {"info": {}, "annotations": notes})


def okvqa(root: Path) -> None:
    questions = [{"question_id": 1, "image_id": 9, "question": "Which sport?"}]
    said = answers("surf", "surf", "ski")
    said[0]["raw_answer"] = said[1]["raw_answer"] = "surfing"
    dump(root / "OpenEnded_mscoco_train2014_questions.json", {"questions": questions})
    dump(root / "mscoco_train2014_annotations.json", {"annotations": [{"question_id": 1, "answers": said}]})


def gqa(root: Path) -> None:
    document = {
        "a": {"imageId": "n5", "question": "Is it red?", "answer": "yes", "fullAnswer": "Yes."},
        "b": {"imageId": 7, "question": "What?", "answer": "cup", "semantic": [{"argument": "}, {"}]},
        "c": {"imageId": "n5", "question": "Withheld?"},
        "d": {"imageId": "n5", "question": "Where?", "answer": "left"},
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "train_balanced_questions.json.gz").write_bytes(gzip.compress(json.dumps(document).encode()))


def ocrvqa(root: Path) -> None:
    book = {"imageURL": "http://x/1.gif", "questions": ["Who?", " "], "answers": ["Me ", "?"], "split": 1}
    document = {
        "1": book,
        "2": {**book, "split": 2},
        "3": {**book, "answers": ["Me"]},
        "4": {**book, "questions": [""], "answers": [""]},
    }
    dump(root / "dataset.json", document)


def aokvqa(root: Path) -> None:
    row = {"question_id": "q1", "image_id": 3, "question": "Which?", "choices": [*"abcd"], "correct_choice_idx": 2}
    rows = [
        row,
        {**row, "question_id": "q2", "question": "And?", "correct_choice_idx": 0},
        {**row, "question_id": "q3", "correct_choice_idx": None},
        {**row, "question_id": "q4", "correct_choice_idx": 4},
        row,
    ]
    dump(root / "aokvqa_v1p0_train.json", rows)


def textcaps(root: Path) -> None:
    rows = [{"image_id": "ab", "caption_id": n, "caption_str": f"Caption {n}.\n"} for n in range(5)]
    rows += [{"image_id": "cd", "caption_id": 5, "caption_str": "Alone."}]
    rows += [{"image_id": "cd", "caption_id": 6, "caption_str": ""}]
    dump(root / "TextCaps_0.1_train.json", {"data": rows})
    dump(root / "TextVQA_Rosetta_OCR_v0.2_train.json", {"data": [{"image_id": "ab", "ocr_tokens": ["GO", "now,"]}]})


def refcoco(root: Path) -> None:
    refs = [
        {"ref_id": n, "ann_id": n, "image_id": 1, "split": "train", "sentences": [{"sent_id": n, "raw": f"thing {n}"}]}
        for n in range(20)
    ]
    refs.append({"ref_id": 20, "ann_id": 0, "image_id": 1, "split": "testA", "sentences": [{"raw": "x"}]})
    refs.append({"ref_id": 21, "ann_id": 77, "image_id": 1, "split": "train", "sentences": [{"raw": "x"}]})
    (root / "refcoco").mkdir(parents=True)
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs))
    notes = [{"id": n, "bbox": [10.0, 0.0, 20.0, 50.0]} for n in range(20)]
    notes[1]["bbox"] = [90.0, 40.0, 30.0, 20.0]
    images = [{"id": 1, "width": 100, "height": 50}]
    dump(root / "refcoco/instances.json", {"images": images, "annotations": notes})


def vg(root: Path) -> None:
    region = {"phrase": "a red cup ", "x": 10, "y": 10, "width": 20, "height": 20}
    rows = [
        {"id": 1, "regions": [{**region, "region_id": n} for n in range(15)] + [{**region, "phrase": ""}]},
        {"id": 2, "regions": [{**region, "width": 0}]},
        {"id": 3, "regions": [region]},
        {"id": 4, "regions": [region]},
        {"id": 1, "regions": [region]},
    ]
    pictures = [
        {"image_id": n, "url": f"https://x/VG_100K{'_2' if n == 1 else ''}/{n}.jpg", "width": 100, "height": 50}
        for n in (1, 2, 3)
    ]
    dump(root / "region_descriptions.json", rows)
    dump(root / "image_data.json", pictures)
    dump(root / "held_out.json", [3])


def sharegpt(root: Path) -> None:
    def chat(name: str, *turns: tuple[str, str]) -> dict[str, Any]:
        return {"id": name, "conversations": [{"from": role, "value": text} for role, text in turns]}

    pair = (("human", "Hi"), ("gpt", "Hello"))
    rows = [
        chat("good", *pair),
        chat("leading", ("gpt", "Before"), ("human", "Hey"), ("gpt", "Yes")),
        chat("open", ("human", "One"), ("gpt", "Two"), ("human", "Three")),
        chat("system", ("system", "Be brief"), ("human", "Who?"), ("gpt", "Me")),
        chat("none"),
        chat("twice", ("human", "a"), ("human", "b"), ("gpt", "c"), ("gpt", "d")),
        chat("void", ("human", "a"), ("gpt", " ")),
        chat("copy", *pair),
        chat("good", ("human", "again"), ("gpt", "yes")),
        chat("long", *[turn for n in range(30) for turn in (("human", f"q{n}"), ("gpt", "x" * 600))]),
    ]
    dump(root / "sharegpt.json", rows)


def docvqa(root: Path) -> None:
    rows = [
        {"questionId": n, "question": f"Q{n}?", "image": "documents/a_1.png", "answers": [f"one {n}", "two"]}
        for n in range(2)
    ]
    dump(root / "train_v1.0_withQT.json", {"data": [*rows, {"questionId": 9, "question": "Test?", "image": "b.png"}]})


def chartqa(root: Path) -> None:
    dump(root / "train/train_human.json", [{"imgname": "1.png", "query": "How many?", "label": 3}])
    dump(root / "train/train_augmented.json", [{"imgname": "1.png", "query": "Which?", "label": "Blue"}])


def dvqa(root: Path) -> None:
    dump(root / "train_qa.json", [{"image": "bar_1.png", "question": "Is it?", "answer": "no", "question_id": 1}])


def ai2d(root: Path) -> None:
    def page(image: str, letters: bool, right: int = 1) -> dict[str, Any]:
        row = {"questionId": f"{image}-0", "answerTexts": ["x", "y"], "correctAnswer": right, "abcLabel": letters}
        return {"imageName": image, "questions": {"Which one?": row}}

    dump(root / "questions/1.png.json", page("1.png", False))
    dump(root / "questions/2.png.json", page("2.png", True))
    dump(root / "questions/3.png.json", page("3.png", False))
    dump(root / "questions/4.png.json", page("4.png", False, right=5))
    (root / "ai2d_test_ids.csv").write_text("3\n")


def synthdog(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    rows = [("image_0.jpg", "some text"), ("image_1.jpg", "")]
    truths = [(name, json.dumps({"gt_parse": {"text_sequence": text}})) for name, text in rows]
    lines = [json.dumps({"file_name": name, "ground_truth": truth}) + "\n" for name, truth in truths]
    (root / "metadata.jsonl").write_text("".join(lines))


def scienceqa(root: Path) -> None:
    row = {
        "question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "", "image": "image.png",
        "lecture": "Lines\nof lecture.", "solution": "Solved.",
    }  # fmt: skip
    dump(root / "problems.json", {"7": row, "8": {**row, "image": None, "hint": "A hint."}, "9": row})
    dump(root / "pid_splits.json", {"train": ["8", "7"], "test": ["9"]})


def url_table(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    rows = [
        "a cat\thttp://x.test/1.jpg", "dead\tftp://x.test/2.jpg", " \thttp://x.test/3.jpg", "copy\thttp://x.test/1.jpg",
    ]  # fmt: skip
    (root / "cc3m.tsv").write_text("\n".join(rows) + "\n")


def caption_boxes(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    boxes = [{"category": "cup", "bbox": [0.1, 0.1, 0.5, 1.2]}, {"category": "cup", "bbox": [0.5, 0.5, 0.5, 0.6]}]
    rows = [
        {"id": "1", "image": "1.jpg", "captions": ["", " One."], "instances": boxes},
        {"id": "2", "image": "2.jpg", "captions": [], "instances": []},
    ]
    (root / "caps_boxes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def llava_json(root: Path) -> None:
    def row(name: Any, question: str, answer: str = "A.", image: str | None = "x.jpg") -> dict[str, Any]:
        talk = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        return {"id": name, **({"image": image} if image else {}), "conversations": talk}

    rows = [
        row(1, "What?\n<image>"), row("1", "Text?", image=None), row("b", "No token?"), row("c", "<image> <image>"),
        row("d", "<image>", " "), {"id": "e", "conversations": []}, row("f", "<image>", "An <image>"),
    ]  # fmt: skip
    dump(root / "x.json", rows)


def llava_instruct(root: Path) -> None:
    def rows(images: range, answer: str) -> list[dict[str, Any]]:
        talk = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": answer}]
        return [{"id": f"{n:012d}", "image": f"{n:012d}.jpg", "conversations": talk} for n in images]

    dump(root / "conversation_58k.json", rows(range(0, 6), "A talk."))
    dump(root / "detail_23k.json", rows(range(3, 5), "A description."))
    dump(root / "complex_reasoning_77k.json", rows(range(2, 9), "A thought."))


def coco(root: Path) -> None:
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 100, "height": 50} for n in (1, 2, 1)]
    captions = [{"image_id": 1, "id": 5, "caption": "One.\n"}, {"image_id": 9, "id": 6, "caption": "Not listed."}]
    dump(root / "annotations/captions_train2017.json", {"images": images, "annotations": captions})
    boxes = [
        {"id": 1, "image_id": 1, "category_id": 13, "bbox": [90, 40, 30, 30], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 13, "bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": {}},
    ]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 13, "name": "cup"}]}
    dump(root / "annotations/instances_train2017.json", document)


WRITERS: dict[str, Callable[[Path], None]] = {
    "vqav2": vqav2, "okvqa": okvqa, "gqa": gqa, "ocrvqa": ocrvqa, "aokvqa": aokvqa, "textcaps": textcaps,
    "refcoco": refcoco, "vg": vg, "sharegpt": sharegpt, "docvqa": docvqa, "chartqa": chartqa, "dvqa": dvqa,
    "ai2d": ai2d, "synthdog": synthdog, "scienceqa": scienceqa, "url-table": url_table,
    "caption-boxes": caption_boxes, "llava-json": llava_json, "llava-instruct": llava_instruct,
    "sharegpt4v": llava_json, "coco": coco,
}  # fmt: skip
# sources that use each raw record in at most one sample, one record per sample


def read(name: str, root: Path, **options: Any) -> tuple[list[Sample], Counter[str], Reading]:
    """Samples, drop counts, and the reading, of a freshly written raw folder."""
    if not root.exists():
        WRITERS[name](root)
    reading = Reading(**options)
    found = list(source(name).read(root, reading))
    return [s for s in found if not s.dropped], Counter(s.dropped for s in found if s.dropped), reading


def texts(sample: Sample) -> list[str]:
    return [turn.text for turn in sample.turns]
