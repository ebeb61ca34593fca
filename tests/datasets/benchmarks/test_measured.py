"""Benchmarks with a measure of their own: MME's pairs, boxes, edit distance, relaxed numbers, MathVista's forms."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets.benchmarks._boxes import overlap, read_box, unpad
from llavaflow.datasets.benchmarks._distance import edit_distance
from llavaflow.datasets.benchmarks.chartqa import relaxed_match
from llavaflow.datasets.benchmarks.docvqa import collapsed, similarity
from llavaflow.datasets.benchmarks.mme import says
from llavaflow.infra.errors import InputError
from llavaflow.tests.datasets.benchmarks.conftest import SHORT, TRICKY, llava, score


@pytest.mark.parametrize(
    ("reply", "read"),
    [("Yes", "yes"), ("no.", "no"), ("No, but yes", "no"), ("Well, yes", None), ("", None), ("nyes", "yes")],
)  # fmt: skip
def test_mme_reads_the_first_four_characters(reply: str, read: str | None) -> None:
    assert says(reply) == read


def mme(write: Any) -> Path:
    for category in ("existence", "code_reasoning"):
        lines = [
            f"{n:04d}.txt\tIs {k} there?  Please answer yes or no.\t{label}\n"
            for n in range(2)
            for k, label in enumerate(("Yes", "No"))
        ]
        write(f"mme/{category}.txt", "".join(lines))
    return Path(write("mme/readme", "")).parent


def mme_answers(wrong: set[int]) -> list[dict[str, Any]]:
    rows = []
    for place, (category, n, k) in enumerate(
        (c, n, k) for c in ("existence", "code_reasoning") for n in range(2) for k in range(2)
    ):
        text = ("Yes", "No")[k ^ (place in wrong)]
        rows.append({"question_id": f"{category}/{n:04d}.png", "prompt": f"Is {k} there?{SHORT}", "text": text})
    return llava(rows)


def test_mme_adds_accuracy_and_pairs(write: Any) -> None:
    result = score("mme", write("a.jsonl", mme_answers({0})), mme(write))
    assert result.score == 75 + 50 and result.metrics["cognition"] == 200
    assert result.metrics["categories"]["existence"]["accuracy_plus"] == 50


def test_mme_does_not_depend_on_the_order_of_lines(write: Any) -> None:
    rows = mme_answers({1, 6})
    before = score("mme", write("a.jsonl", rows), mme(write)).as_json()
    random.Random(0).shuffle(rows)
    assert score("mme", write("b.jsonl", rows), mme(write)).as_json() == before


def test_mme_reads_the_folder_as_published_and_its_own_joined_files(write: Any) -> None:
    write("pub/existence/1.txt", "Is it? Please answer yes or no.\tYes\nIs it not? Please answer yes or no.\tNo\n")
    gold = Path(write("pub/readme", "")).parent
    joined = "1.txt\tIs it? Please answer yes or no.\tYes\tYes\n1.txt\tIs it not? Please answer yes or no.\tNo\tno\n"
    answers = Path(write("res/existence.txt", joined)).parent
    assert score("mme", answers, gold).score == 200.0
    packed = Path(write("packed/readme", "")).parent
    (packed / "existence.txt.gz").write_bytes(gzip.compress(joined.encode()))
    assert score("mme", answers, packed).score == 200.0


@pytest.mark.parametrize(
    ("reply", "box"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)), ("It is at [0,0,1,1] here", (0, 0, 1, 1)),
        ("[0.1, 0.2, 0.3]", None), ("[1, 2, 3, 4, 5]", None), ("0.1 0.2 0.3 0.4", None), ("", None),
        ("[0.1, 0.2] [0, 0, 1, 1]", (0, 0, 1, 1)), ("[١, ٢, ٣, ٤]", (1, 2, 3, 4)),
        ("[-0.1, 0.2, 0.3, 0.4]", (-0.1, 0.2, 0.3, 0.4)),
    ],
)  # fmt: skip
def test_box_is_the_first_bracket_of_four_numbers(reply: str, box: Any) -> None:
    assert read_box(reply) == box


def test_overlap() -> None:
    assert overlap((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert overlap((0, 0, 1, 1), (0, 0, 0.5, 1)) == 0.5
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert overlap((0, 0, 1, 1), (0, 0, 0, 0)) == 0
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_padded_square_is_moved_back_to_the_image() -> None:
    assert unpad((0.25, 0.375, 0.5, 0.5), 640, 480) == pytest.approx((0.25, 1 / 3, 0.5, 0.5))
    assert unpad((0.0, 0.0, 1.0, 1.0), 100, 100) == (0, 0, 1, 1)


def rec(write: Any, boxes: list[list[float]], **changes: Any) -> Path:
    rows = [
        {"img_path": f"i{n}.jpg", "expression": f"thing {n}", "bbox": box, "width": 640, "height": 480, "sent_id": n}
        for n, box in enumerate(boxes)
    ]
    return Path(write("REC.jsonl", [{**row, **changes} for row in rows]))


def test_refcoco_half_overlap_counts(write: Any) -> None:
    gold = rec(write, [[0, 0, 320, 480], [0, 0, 320, 480], [0, 0, 320, 480]])
    texts = {"0": "[0.0, 0.0, 1.0, 1.0]", "1": "[0, 0, 0.24, 1]", "2": "no idea"}
    result = score("refcoco", write("a.json", texts), gold)
    assert result.score == pytest.approx(100 / 3) and result.unparsed == 1
    assert result.metrics["acc@0.3"] == pytest.approx(200 / 3)


def test_refcoco_frames(write: Any) -> None:
    """The same box said in 0..1 of the image, and in LLaVA's padded square."""
    gold = rec(write, [[0, 0, 640, 80]])
    image, padded = write("a.json", {"0": "[0, 0, 1, 0.167]"}), write("b.json", {"0": "[0, 0.125, 1, 0.25]"})
    assert score("refcoco", image, gold).score == 100
    assert score("refcoco", padded, gold).score == 0
    assert score("refcoco", padded, gold, box_frame="padded").score == 100


def test_refcoco_tells_width_and_height_from_corners(write: Any) -> None:
    rows = [
        {"img_id": "COCO_1_10", "sents": text, "bbox": [300.0, 100.0, 100.0, 100.0], "width": 640, "height": 480}
        for text in ("left man", "the man")
    ]
    said = str([300 / 640, 100 / 480, 400 / 640, 200 / 480])
    answers = write("a.json", {"COCO_1_10": [said, said]})
    assert score("refcoco", answers, write("minigpt4.json", rows)).score == 100
    corners = rec(write, [[600, 10, 630, 40], [100, 100, 640, 480]])
    both = {"0": str([600 / 640, 10 / 480, 630 / 640, 40 / 480]), "1": str([100 / 640, 100 / 480, 1, 1])}
    assert score("refcocog", write("b.json", both), corners).score == 100


def test_refcoco_joins_by_image_and_expression(write: Any) -> None:
    gold = rec(write, [[0, 0, 640, 480], [0, 0, 64, 48]])
    ask = "Please provide the bounding box coordinate of the region this sentence describes: thing"
    rows = llava(
        [{"question_id": "x", "image": f"i{n}.jpg", "prompt": f"{ask} {n}.", "text": "[0, 0, 1, 1]"} for n in (1, 0)]
    )
    assert score("refcoco-plus", write("a.jsonl", rows), gold).score == 50


def test_refcoco_without_sides_is_refused(write: Any) -> None:
    gold = write("g.jsonl", [{"expression": "a", "bbox": [0, 0, 1, 1], "sent_id": 0}])
    with pytest.raises(InputError, match="sides are needed"):
        score("refcoco", write("a.json", {"0": "[0,0,1,1]"}), gold)


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [("", "", 0), ("kitten", "sitting", 3), ("abc", "", 3), ("flaw", "lawn", 2), ("a", "b", 1), ("aab", "ab", 1)],
)
def test_edit_distance(left: str, right: str, distance: int) -> None:
    assert edit_distance(left, right) == edit_distance(right, left) == distance


def test_anls_takes_the_nearest_gold_and_drops_what_is_far() -> None:
    assert similarity("Hello  World", ["hello world"], collapsed, original_length=False) == 1.0
    assert similarity("hallo", ["hello", "x"], collapsed, original_length=False) == 0.8
    assert similarity("abcd", ["wxyz"], collapsed, original_length=False) == 0.0
    assert similarity("abxy", ["abcd"], collapsed, original_length=False) == 0.5
    assert similarity("", [""], collapsed, original_length=True) == 1.0


def test_docvqa_reads_both_layouts(write: Any) -> None:
    official = {"data": [{"questionId": 7, "question": "Q?", "image": "d.png", "answers": ["UC San Diego", "x"]}]}
    lines = [{"question_id": 7, "question": f"Q?{SHORT}", "image": "d.png", "answer": ["UC San Diego"]}]
    answers = write("p.json", [{"questionId": 7, "predicted_answer": "uc san  diego", "ground_truth": ["no"]}])
    assert score("docvqa", answers, write("val_v1.0.json", official)).score == 100
    assert score("docvqa", answers, write("val.jsonl", lines)).score == 100


@pytest.mark.parametrize(
    ("reply", "gold", "right"),
    [
        ("10.5", "10", True), ("9.5", "10", True), ("10.51", "10", False), ("12%", "0.12", True), ("12", "12%", False),
        ("0", "0", True), ("0.0", "0", False), ("Yes", "yes", True), ("", "x", False), ("-10", "10", False),
        ("nan", "nan", False), ("１０", "10", True), ("3 cats", "3", False),
    ],
)  # fmt: skip
def test_relaxed_numbers(reply: str, gold: str, right: bool) -> None:
    assert relaxed_match(reply, gold) is right


def test_chartqa_reports_its_halves(write: Any) -> None:
    for half, label in (("human", "10"), ("augmented", "Yes")):
        write(f"c/test_{half}.json", [{"imgname": f"{half}.png", "query": "How much?", "label": label}])
    rows = llava(
        [
            {"question_id": -1, "image": f"png/{half}.png", "prompt": f"How much?{SHORT}", "text": "10.2"}
            for half in ("augmented", "human")
        ]
    )
    result = score("chartqa", write("a.jsonl", rows), Path(write("c/readme", "")).parent)
    assert (result.score, result.metrics["human"], result.metrics["augmented"]) == (50, 100, 0)


def test_chartqa_lines_without_ids_are_named_by_place(write: Any) -> None:
    gold = [{"question_id": -1, "image": f"{n}.png", "question": f"Q?{SHORT}", "answer": str(n + 1)} for n in range(3)]
    assert score("chartqa", write("a.json", {"0": "1", "1": "2", "2": "9"}), write("test.jsonl", gold)).score > 66


def problem(pid: str, **changes: Any) -> dict[str, Any]:
    base = {
        "pid": pid, "question": "Q", "choices": None, "answer": "4", "question_type": "free_form",
        "answer_type": "integer", "precision": None, "metadata": {"task": "t", "skills": ["arithmetic"]},
    }  # fmt: skip
    return {**base, **changes}


@pytest.mark.parametrize(
    ("changes", "reply", "right"),
    [
        ({}, "4", True), ({}, "4.0", True), ({}, "four", False), ({}, "", False), ({}, 'The answer is "4".', True),
        ({"answer_type": "float", "precision": 1, "answer": "1.2"}, "1.24", True),
        ({"answer_type": "float", "precision": 1, "answer": "1.2"}, "1.26", False),
        ({"answer_type": "list", "answer": "[1, 2]"}, "[1, 2]", True),
        ({"question_type": "multi_choice", "choices": ["6cm", "7cm"], "answer": "7cm"}, "B", True),
        ({"question_type": "multi_choice", "choices": ["6cm", "7cm"], "answer": "7cm"}, "(b) 7", True),
        ({"question_type": "multi_choice", "choices": ["red", "green"], "answer": "green"}, "greenish", True),
        ({"question_type": "multi_choice", "choices": ["6cm", "7cm"], "answer": "7cm"}, "C", False),
        ({}, "inf", False), ({}, "٤", True),
    ],
)  # fmt: skip
def test_mathvista_forms(write: Any, changes: dict[str, Any], reply: str, right: bool) -> None:
    gold = write("testmini.json", {"1": problem("1", **changes)})
    assert score("mathvista", write("a.json", {"1": reply}), gold).score == 100 * right


def test_mathvista_prefers_the_stored_extraction_and_asks_a_judge_for_essays(write: Any) -> None:
    gold = write("testmini.json", {"1": problem("1"), "2": problem("2")})
    stored = {"1": {**problem("1"), "response": "Four, I think.", "extraction": "4"}, "2": {"response": "It is 4 cm."}}
    answers = write("a.json", stored)
    assert score("mathvista", answers, gold).score == 50.0
    assert score("mathvista", answers, gold, lambda prompts: [" 4\n"] * len(prompts)).score == 100.0
    assert score("mathvista", answers, gold).metrics["skills"] == {"arithmetic": 50.0}
    # an empty extraction beside others is what upstream scored; a file with none but empty ones was never extracted
    stored["2"] = {"response": "4", "extraction": ""}
    assert score("mathvista", write("b.json", stored), gold).score == 50.0
    del stored["1"]["extraction"]
    assert score("mathvista", write("c.json", stored), gold).score == 50.0


def test_tricky_replies_are_handled(write: Any) -> None:
    gold = write("testmini.json", {str(n): problem(str(n), answer="999") for n in range(len(TRICKY))})
    assert score("mathvista", write("a.json", {str(n): text for n, text in enumerate(TRICKY)}), gold).score == 0
    boxes = rec(write, [[0, 0, 64, 48]] * len(TRICKY))
    assert score("refcoco", write("b.json", {str(n): text for n, text in enumerate(TRICKY)}), boxes).score == 0


def test_refcoco_takes_a_place_as_id_only_with_the_expression(write: Any) -> None:
    """Ids that count rows and meet the gold's own ids by chance do not bend the join."""
    rows = [
        {"img_path": f"i{n}.jpg", "expression": f"thing {n}", "bbox": [0, 0, 64 * (n + 1), 480], "width": 640,
         "height": 480, "sent_id": n + 1}
        for n in range(3)
    ]  # fmt: skip
    said = [
        {"question_id": n, "image": f"i{n}.jpg", "prompt": f"thing {n}", "text": f"[0, 0, {0.1 * (n + 1)}, 1]"}
        for n in range(3)
    ]
    assert score("refcoco", write("a.jsonl", llava(said[::-1])), write("REC.jsonl", rows)).score == 100


def test_refcoco_reads_lmms_eval_documents_and_samples(write: Any) -> None:
    gold = [
        {"question_id": "r1", "question": "Describe the area.", "answer": ["the cat", "left cat"],
         "bbox": [100.0, 100.0, 200.0, 100.0], "image_width": 640, "image_height": 480}
    ]  # fmt: skip
    said = str([100 / 640, 100 / 480, 300 / 640, 200 / 480])
    samples = [
        {"doc_id": n, "doc": {"question_id": "r1", "question": "Describe the area.", "answer": text},
         "filtered_resps": [said if n else "none"]}
        for n, text in enumerate(("left cat", "the cat"))
    ]  # fmt: skip
    result = score("refcoco", write("s.jsonl", samples), write("gold.json", gold))
    assert result.n == 2 and result.score == 50.0
    assert [pair.item.text for pair, mark in zip(result.pairs, result.marks, strict=True) if mark.value] == ["the cat"]


def test_refcoco_tells_equal_expressions_of_one_image_apart_by_the_place(write: Any) -> None:
    """Published files say "left man" of two men in one image; row numbers as ids meet the sentence ids of others."""
    rows = [
        {"img_path": f"i{n // 2}.jpg", "expression": "left man", "bbox": [0, 0, 64 * (n + 1), 480], "width": 640,
         "height": 480, "sent_id": 3 - n}
        for n in range(4)
    ]  # fmt: skip
    said = [
        {"question_id": n, "image": f"i{n // 2}.jpg", "prompt": "left man", "text": f"[0, 0, {0.1 * (n + 1)}, 1]"}
        for n in range(4)
    ]
    for order in ((0, 1, 2, 3), (1, 0, 3, 2), (3, 2, 1, 0)):
        answers = write("a.jsonl", llava([said[place] for place in order]))
        assert score("refcoco", answers, write("REC.jsonl", rows)).metrics["mean_iou"] == pytest.approx(100)
