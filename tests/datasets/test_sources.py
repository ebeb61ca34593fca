"""Every source on a small raw folder in its authors' layout, with the dirt of the real files.

Common to all: samples have the right form, nothing is lost, a second read gives the same. Then each one's own rule.
"""

from __future__ import annotations

import gzip
import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets._sample import IMAGE_TOKEN, Sample
from llavaflow.datasets._source import LETTER, SHORT_ANSWER, Reading, source, source_names
from llavaflow.infra.errors import InputError


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
    "caption-boxes": caption_boxes, "llava-json": llava_json, "sharegpt4v": llava_json, "coco": coco,
}  # fmt: skip
# sources that use each raw record in at most one sample, one record per sample
PER_RECORD = {"ocrvqa", "vg", "sharegpt", "synthdog", "scienceqa", "url-table", "caption-boxes", "llava-json", "coco"}


def read(name: str, root: Path, **options: Any) -> tuple[list[Sample], Counter[str], Reading]:
    """Samples, drop counts, and the reading, of a freshly written raw folder."""
    if not root.exists():
        WRITERS[name](root)
    reading = Reading(**options)
    found = list(source(name).read(root, reading))
    return [s for s in found if not s.dropped], Counter(s.dropped for s in found if s.dropped), reading


def test_every_source_has_a_case_here() -> None:
    assert set(WRITERS) == set(source_names())


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_samples_have_the_form_of_training_data(name: str, tmp_path: Path) -> None:
    samples, dropped, reading = read(name, tmp_path / "raw")
    found = source(name)
    assert samples and found.name == name
    assert set(dropped) <= set(found.reasons()), "every reason is declared"
    assert set(+reading.repairs) <= set(found.mendings()), "every mending is declared"
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert [turn.role for turn in sample.turns] == ["human", "gpt"] * (len(sample.turns) // 2)
        assert all(turn.text == turn.text.strip() != "" for turn in sample.turns)
        assert sum(turn.text.count(IMAGE_TOKEN) for turn in sample.turns) == len(sample.images)
        assert sample.parents and all(":" in parent for parent in sample.parents)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    samples, dropped, reading = read(name, tmp_path / "raw")
    first = {parent for sample in samples for parent in sample.parents}
    kinds = {parent.partition("/")[0] for sample in samples for parent in sample.parents[:1]}
    used = {parent for parent in first if parent.partition("/")[0] in kinds}
    if name in PER_RECORD:
        assert len(samples) + dropped.total() == reading.records
    else:
        assert len(used) + dropped.total() == reading.records


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_second_read_gives_the_same(name: str, tmp_path: Path) -> None:
    assert read(name, tmp_path / "raw")[0] == read(name, tmp_path / "raw")[0]


def texts(sample: Sample) -> list[str]:
    return [turn.text for turn in sample.turns]


def test_vqav2_merges_per_image_and_joins_the_consensus(tmp_path: Path) -> None:
    samples, dropped, reading = read("vqav2", tmp_path / "raw")
    assert [sample.id for sample in samples] == ["000000000001", "000000000002"]
    assert texts(samples[0]) == [f"<image>\nWhat is it?\n{SHORT_ANSWER}", "A cat", "How many?", "2"]
    assert texts(samples[1]) == [f"<image>\nIs it  red?\n{SHORT_ANSWER}", "Yes"]
    assert dropped == {"repeated-id": 1, "empty-question": 1, "no-annotation": 1, "empty-answer": 1}
    assert reading.repairs["image-token-in-text"] == 1 and reading.repairs["annotation-without-question"] == 1
    assert samples[0].images == ("coco/train2017/000000000001.jpg",)


def test_okvqa_teaches_the_unstemmed_answer(tmp_path: Path) -> None:
    assert texts(read("okvqa", tmp_path / "raw")[0][0])[1] == "Surfing"


def test_gqa_keeps_the_n_of_an_image_id(tmp_path: Path) -> None:
    samples, dropped, reading = read("gqa", tmp_path / "raw")
    assert [(sample.images[0], len(sample.turns)) for sample in samples] == [
        ("gqa/images/n5.jpg", 4), ("gqa/images/7.jpg", 2),
    ]  # fmt: skip
    assert dropped == {"no-answer": 1} and reading.repairs["n-before-image-id"] == 3


def test_ocrvqa_takes_train_covers_and_names_gifs_jpg(tmp_path: Path) -> None:
    samples, dropped, reading = read("ocrvqa", tmp_path / "raw")
    assert [sample.images for sample in samples] == [("ocr_vqa/images/1.jpg",)]
    assert dropped == {"not-in-train-split": 1, "answers-do-not-match": 1, "empty-answer": 1}
    assert reading.repairs["gif-named-jpg"] == 1


def test_aokvqa_turns_the_choices_so_that_every_letter_is_right_once(tmp_path: Path) -> None:
    samples, dropped, _ = read("aokvqa", tmp_path / "raw")
    assert len(samples) == 4
    assert texts(samples[0])[0] == f"<image>\nWhich?\nA. a\nB. b\nC. c\nD. d\n{LETTER}"
    assert texts(samples[1])[0] == f"<image>\nWhich?\nA. b\nB. c\nC. d\nD. a\n{LETTER}"
    assert sorted(texts(sample)[1] for sample in samples) == ["A", "B", "C", "D"]
    assert sorted(texts(sample)[3] for sample in samples) == ["A", "B", "C", "D"]
    assert dropped == {"no-answer": 1, "bad-choices": 1, "repeated-id": 1}


def test_textcaps_takes_one_caption_with_the_ocr_line(tmp_path: Path) -> None:
    samples, dropped, _ = read("textcaps", tmp_path / "raw")
    assert len(samples) == 2 and dropped == {"another-caption-chosen": 4, "empty-answer": 1}
    assert texts(samples[0])[0].endswith("\nReference OCR token: GO, now,")
    assert "OCR" not in texts(samples[1])[0]
    seeds = {texts(read("textcaps", tmp_path / "raw", seed=seed)[0][0])[1] for seed in range(12)}
    assert len(seeds) > 1


def test_refcoco_cuts_dialogues_evenly_under_ten_and_pads_boxes(tmp_path: Path) -> None:
    samples, dropped, reading = read("refcoco", tmp_path / "raw")
    assert [len(sample.turns) // 2 for sample in samples] == [6, 7, 7]
    assert dropped == {"not-in-train-split": 1, "no-annotation": 1}
    assert reading.repairs["box-clipped"] == 1
    said = "\n".join(text for sample in samples for text in texts(sample))
    assert "[0.1, 0.25, 0.3, 0.75]" in said  # x unchanged, y moved by the pad of 25 over a side of 100
    assert "[0.9, 0.65, 1.0, 0.75]" in said
    assert "describes: thing" in said and "Thing" in said


def row_xyxy(n: int, box: list[float]) -> dict[str, Any]:
    return {
        "img_path": "COCO_train2014_000000000001.jpg", "expression": f"thing {n}", "bbox": box, "image_id": 1,
        "sent_id": n, "width": 100, "height": 100,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("boxes", "wanted"),
    [
        ([[50, 50, 90, 90], [60, 60, 95, 70]], "boxes-read-as-xyxy"),
        ([[50, 50, 40, 40], [10, 10, 5, 80]], "boxes-read-as-xywh"),
    ],
)
def test_refcoco_tells_the_two_box_conventions_apart(tmp_path: Path, boxes: list[list[float]], wanted: str) -> None:
    raw = tmp_path / "rows.jsonl"
    raw.write_text("".join(json.dumps(row_xyxy(n, box)) + "\n" for n, box in enumerate(boxes)))
    samples, _, reading = read("refcoco", raw)
    assert +reading.repairs == {wanted: 2}
    assert "[0.5, 0.5, 0.9, 0.9]" in "".join(texts(samples[0]))


def test_refcoco_refuses_a_pickle_that_would_run_code(tmp_path: Path) -> None:
    raw = tmp_path / "refs(unc).p"
    raw.write_bytes(pickle.dumps([Path("x")]))
    with pytest.raises(InputError, match="not a pickle of plain lists"):
        read("refcoco", raw)


def test_vg_draws_at_most_ten_regions(tmp_path: Path) -> None:
    samples, dropped, _ = read("vg", tmp_path / "raw")
    assert [(sample.images[0], len(sample.turns)) for sample in samples] == [("vg/VG_100K_2/1.jpg", 20)]
    assert dropped == {"no-usable-region": 1, "held-out-image": 1, "no-image-size": 1, "repeated-id": 1}


def test_vg_questions_are_merged_per_image(tmp_path: Path) -> None:
    vg(tmp_path / "raw")
    qas = [{"question": "What colour?", "answer": "red."}, {"question": "Why?", "answer": ""}]
    dump(tmp_path / "raw/question_answers.json", [{"id": 2, "qas": qas}, {"id": 3, "qas": qas}])
    for path, options in ((tmp_path / "raw", {"records": "qas"}), (tmp_path / "raw/question_answers.json", {})):
        samples, dropped, _ = read("vg", path, options=options)
        assert [texts(sample) for sample in samples] == [[f"<image>\nWhat colour?\n{SHORT_ANSWER}", "Red"]]
        assert dropped == {"held-out-image": 1}
    with pytest.raises(InputError, match="records 'x' of vg is neither of regions, qas"):
        read("vg", tmp_path / "raw", options={"records": "x"})


def test_validation_splits_keep_their_image_folder(tmp_path: Path) -> None:
    aokvqa(tmp_path / "raw")
    rows = json.loads((tmp_path / "raw/aokvqa_v1p0_train.json").read_text())
    dump(tmp_path / "val.json", [{**row, "split": "val"} for row in rows])
    assert read("aokvqa", tmp_path / "val.json")[0][0].images == ("coco/val2017/000000000003.jpg",)
    coco(tmp_path / "coco")
    captions = tmp_path / "coco/annotations/captions_train2017.json"
    captions.rename(captions.with_name("captions_val2017.json"))
    assert read("coco", tmp_path / "coco")[0][0].images == ("coco/val2017/000000000001.jpg",)


def test_sharegpt_mends_refuses_and_cuts(tmp_path: Path) -> None:
    samples, dropped, reading = read("sharegpt", tmp_path / "raw")
    assert {sample.id: len(sample.turns) for sample in samples} == {
        "good": 2, "leading": 2, "open": 2, "system": 2, "long": 26,
    }  # fmt: skip
    assert dropped == {
        "no-conversation": 1, "not-alternating": 1, "empty-turn": 1, "duplicate-conversation": 1, "repeated-id": 1,
    }  # fmt: skip
    assert reading.repairs["long-conversation-cut"] == 1
    assert all(sample.extra == {"model": ""} for sample in samples)


def test_ai2d_shows_lettered_diagrams_and_leaves_test_ones_out(tmp_path: Path) -> None:
    samples, dropped, _ = read("ai2d", tmp_path / "raw")
    assert [sample.images[0] for sample in samples] == ["ai2d/images/1.png", "ai2d/abc_images/2.png"]
    assert texts(samples[0]) == [f"<image>\nWhich one?\nA. x\nB. y\n{LETTER}", "B"]
    assert dropped == {"held-out-image": 1, "bad-choices": 1}


LECTURE = "Lines\\nof lecture."


@pytest.mark.parametrize(
    ("form", "asked", "told"),
    [
        ("QCM-LEA", "Which?\nContext: N/A\nOptions: (A) x (B) y\n<image>", f"{LECTURE} Solved. The answer is B."),
        ("CQM-A", "Context: N/A\nQuestion: Which?\nOptions: (A) x (B) y\n<image>", "The answer is B."),
        ("QCML-AL", None, "The answer is B. BECAUSE: Solved."),
        ("QCM-AE", None, f"The answer is B. BECAUSE: {LECTURE}"),
        ("QCLEM-LEPA", None, f"LECTURE: {LECTURE}\nSOLUTION: Solved.\n###\nANSWER: B."),
    ],
)
def test_scienceqa_formats(tmp_path: Path, form: str, asked: str | None, told: str) -> None:
    samples, dropped, _ = read("scienceqa", tmp_path / "raw", options={"format": form})
    assert [sample.id for sample in samples] == ["8", "7"] and dropped == {"not-in-split": 1}
    assert texts(samples[1])[1] == told
    assert asked is None or texts(samples[1])[0] == asked
    assert samples[0].images == () and "A hint." in texts(samples[0])[0]


def test_scienceqa_names_the_formats_and_splits_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="format 'X-Y' is not INPUT-OUTPUT"):
        read("scienceqa", tmp_path / "raw", options={"format": "X-Y"})
    with pytest.raises(InputError, match="no split 'dev'.*train, test"):
        read("scienceqa", tmp_path / "raw", options={"split": "dev"})


def test_url_tables_name_images_as_img2dataset_does(tmp_path: Path) -> None:
    samples, dropped, _ = read("url-table", tmp_path / "raw")
    (sample,) = samples
    assert (sample.images, sample.extra["url"]) == (("00000/000000000.jpg",), "http://x.test/1.jpg")
    assert dropped == {"bad-url": 1, "empty-caption": 1, "repeated-url": 1}


def test_llava_json_keeps_ids_apart(tmp_path: Path) -> None:
    samples, dropped, reading = read("llava-json", tmp_path / "raw")
    assert [sample.id for sample in samples] == ["1", "1#2"]
    assert dropped == {"image-count-mismatch": 2, "empty-answer": 1, "not-alternating": 1, "image-in-answer": 1}
    assert reading.repairs["id-as-text"] == 1


def test_coco_boxes_are_clipped_and_crowds_left_out(tmp_path: Path) -> None:
    samples, dropped, reading = read("coco", tmp_path / "raw")
    (box,) = samples[0].boxes
    assert (box.x1, box.y1, box.x2, box.y2, box.label) == (90, 40, 100, 50, "cup")
    assert dropped == {"no-caption": 1, "repeated-id": 1}
    assert reading.repairs["instance-left-out"] == 1


def test_malformed_records_stop_or_are_set_aside(tmp_path: Path) -> None:
    good = {"image": "a.png", "question": "Q?", "answer": "x", "question_id": 1}
    dump(tmp_path / "raw/train_qa.json", [good, {"image": 1}])
    with pytest.raises(InputError, match=r"train_qa\.json, record 2: field 'answer' is missing"):
        read("dvqa", tmp_path / "raw")
    samples, dropped, reading = read("dvqa", tmp_path / "raw", tolerate=0.5)
    assert len(samples) == 1 and dropped == {"malformed-record": 1}
    assert reading.quarantine[0]["where"] == "record 2"
    with pytest.raises(InputError, match="more than the tolerated share of 0.4"):
        read("dvqa", tmp_path / "raw", tolerate=0.4)
