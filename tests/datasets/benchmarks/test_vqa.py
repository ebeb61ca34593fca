"""The VQA family: the normaliser, the two rules that the field confuses, and the files for the servers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets.benchmarks._answers import read_answers
from llavaflow.datasets.benchmarks._benchmark import Options, load_benchmark
from llavaflow.datasets.benchmarks._evalai import processed, soft_score
from llavaflow.datasets.benchmarks._upload import write as write_upload
from llavaflow.infra.errors import InputError
from llavaflow.tests.datasets.benchmarks.conftest import SHORT, TRICKY, llava, score


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Dog's", "dog 's"), ("two", "2"), ("None", "0"), ("an apple, a pear", "apple pear"), ("dont", "don't"),
        ("1,000", "1000"), ("x-ray", "x ray"), ("x -ray", "x ray"), ("3.5", "3.5"), ("end.", "end"), ("", ""),
        ("what?", "what"), ("New\nYork\tCity", "new york city"), ("a" * 50_000, "a" * 50_000), ("１２", "１２"),
        ("." * 40, "." * 8),
    ],
)  # fmt: skip
def test_normaliser_with_its_quirks(text: str, normal: str) -> None:
    assert processed(text) == normal


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_soft_score_leaves_each_human_out_once(matches: int, expected: float) -> None:
    assert soft_score("x", ["x"] * matches + ["y"] * (10 - matches)) == pytest.approx(expected)


def humans(answers: list[str], ids: bool = True) -> list[dict[str, Any]]:
    extra = [{"answer_id": place + 1} if ids else {} for place in range(len(answers))]
    return [{"answer": answer, "answer_confidence": "yes", **more} for answer, more in zip(answers, extra, strict=True)]


def vqa(write: Any, golds: list[list[str]], ids: bool = True) -> Path:
    annotations = [
        {"question_id": n, "image_id": n // 2, "answer_type": "other", "answers": humans(gold, ids)}
        for n, gold in enumerate(golds)
    ]
    questions = [{"question_id": n, "image_id": n // 2, "question": f"What is {n}?"} for n in range(len(golds))]
    write("g/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    return Path(write("g/v2_mscoco_val2014_annotations.json", {"annotations": annotations})).parent


def answers(texts: list[str]) -> list[dict[str, Any]]:
    return llava([{"question_id": n, "prompt": f"What is {n}?{SHORT}", "text": text} for n, text in enumerate(texts)])


def test_unanimous_humans_are_compared_raw_by_the_official_rule(write: Any) -> None:
    gold = vqa(write, [["red"] * 10, ["Red"] * 10, ["red"] * 6 + ["blue"] * 4])
    metrics = score("vqav2", write("a.jsonl", answers(["Red", "Red", "Red"])), gold).metrics
    assert metrics["official_as_given"] == pytest.approx(200 / 3)
    assert metrics["official_after_processor"] == pytest.approx(200 / 3)
    assert metrics["always_normalised"] == 100.0


def test_upload_form_is_not_processed_again(write: Any) -> None:
    gold = vqa(write, [["Red"] * 10])
    given = score("vqav2", write("a.json", [{"question_id": 0, "answer": "Red"}]), gold)
    raw = score("vqav2", write("b.jsonl", answers(["Red"])), gold)
    assert (given.score, raw.score) == (100.0, 0.0)


def test_vizwiz_finds_the_others_by_position(write: Any) -> None:
    gold = vqa(write, [["unanswerable"] * 4 + [f"w{n}" for n in range(6)]], ids=False)
    result = score("vizwiz", write("a.jsonl", answers(["Unanswerable"])), gold)
    assert result.score == 100.0
    assert result.metrics["vqa_official_without_ids"] == pytest.approx(60.0)


def test_vizwiz_reads_its_own_list(write: Any) -> None:
    rows = [{"image": "VizWiz_val_0.jpg", "question": "What?", "answers": humans(["tea"] * 10, ids=False)}]
    plain = write("a.json", {"VizWiz_val_0.jpg": "Tea"})
    assert score("vizwiz", plain, write("val.json", rows)).score == 100.0


def test_textvqa_joins_by_image_and_question(write: Any) -> None:
    data = [
        {"image_id": "im", "question_id": n, "question": f"what is {n}?", "answers": [word] * 10}
        for n, word in enumerate(("dakota", "7"))
    ]
    gold = write("TextVQA_0.5.1_val.json", {"data": data})
    prompts = (f"What is 1?\nReference OCR token: A, B{SHORT}", f"Reference OCR token: A\nWhat is 0?{SHORT}")
    rows = llava(
        [{"question_id": "im", "prompt": p, "text": t} for p, t in zip(prompts, ("Seven", "Dakota"), strict=True)]
    )
    assert score("textvqa", write("a.jsonl", rows), gold).score == 100.0
    for n, row in zip((1, 0), rows, strict=True):
        row["prompt"] = f"OCR tokens: A, B. Question: What is {n}? Short answer:"
    result = score("textvqa", write("older.jsonl", rows), gold)
    assert (result.score, result.notes) == (100.0, ())
    with pytest.raises(InputError, match="unknown id"):
        score("textvqa", write("b.json", {"im": "x", "1": "y"}), gold)


def test_textvqa_wants_ten_answers(write: Any) -> None:
    gold = write("t.json", {"data": [{"image_id": "i", "question": "q?", "answers": ["a"] * 9}]})
    with pytest.raises(InputError, match="do not have 10 human answers"):
        score("textvqa", write("a.json", {"0": "a"}), gold)


def test_shuffled_and_tricky(write: Any) -> None:
    rng = random.Random(1)
    gold = vqa(write, [[rng.choice(("a", "two", "x-ray", "")) for _ in range(10)] for _ in TRICKY])
    rows = answers(list(TRICKY))
    before = score("vqav2", write("a.jsonl", rows), gold).as_json()
    rng.shuffle(rows)
    assert score("vqav2", write("b.jsonl", rows), gold).as_json() == before


def test_vqav2_upload_holds_every_question_of_the_split(write: Any, tmp_path: Path) -> None:
    questions = write("q.jsonl", [{"question_id": n, "image": f"{n}.jpg", "text": f"What is {n}?"} for n in range(3)])
    given = read_answers(write("a.jsonl", answers(["The Dog", "Two"])))
    filled = write_upload(load_benchmark("vqav2"), given, questions, Options(), tmp_path / "up.json")
    assert filled == 1
    assert json.loads((tmp_path / "up.json").read_text()) == [
        {"question_id": 0, "answer": "dog"},
        {"question_id": 1, "answer": "2"},
        {"question_id": 2, "answer": ""},
    ]
    with pytest.raises(InputError, match="nothing is overwritten"):
        write_upload(load_benchmark("vqav2"), given, questions, Options(), tmp_path / "up.json")


def test_vizwiz_upload_is_by_image(write: Any, tmp_path: Path) -> None:
    questions = write("q.jsonl", [{"question_id": 0, "image": "VizWiz_test_0.jpg", "text": "What is 0?"}])
    given = read_answers(write("a.jsonl", answers(["Unanswerable."])))
    write_upload(load_benchmark("vizwiz"), given, questions, Options(), tmp_path / "up.json")
    expected = [{"image": "VizWiz_test_0.jpg", "answer": "unanswerable"}]
    assert json.loads((tmp_path / "up.json").read_text()) == expected


def test_okvqa_and_direct_answers(write: Any) -> None:
    gold = vqa(write, [["race"] * 10])
    assert score("okvqa", write("a.jsonl", answers(["race"])), gold / "v2_mscoco_val2014_annotations.json").score == 100


def test_aokvqa_has_two_settings(write: Any) -> None:
    row = {
        "question_id": "q", "question": "What?", "image_id": 1, "choices": ["cat", "dog"], "correct_choice_idx": 1,
        "direct_answers": ["dog", "dog", *["puppy"] * 8], "difficult_direct_answer": False,
    }  # fmt: skip
    hard = {**row, "question_id": "h", "difficult_direct_answer": True}
    gold = write("aokvqa_v1p0_val.json", [row, hard])
    result = score("aokvqa", write("a.json", {"q": "dog", "h": "B"}), gold)
    assert result.score == 100.0
    assert result.metrics["direct_answer"] == pytest.approx(200 / 3)
    assert result.metrics["direct_answer_questions"] == 1
    both = {"q": {"multiple_choice": "cat", "direct_answer": "puppy"}, "h": {"multiple_choice": "dog"}}
    result = score("aokvqa", write("b.json", both), gold)
    assert (result.score, result.metrics["direct_answer"]) == (50.0, 100.0)


def test_vizwiz_in_vqa_form_is_known_by_its_image_too(write: Any) -> None:
    row = {"question_id": 3, "image_id": "VizWiz_val_3.jpg", "answers": humans(["tea"] * 10, ids=False)}
    gold = write("val_annotations.json", {"annotations": [row]})
    assert score("vizwiz", write("a.json", {"VizWiz_val_3.jpg": "tea"}), gold).score == 100.0


def test_vizwiz_humans_may_be_bare_words(write: Any) -> None:
    """The hub's rows of VizWiz hold the ten answers as plain texts."""
    row = {"question_id": 3, "image": "VizWiz_val_3.jpg", "question": "What?", "answers": ["tea"] * 9 + ["cup"]}
    result = score("vizwiz", write("a.json", {"VizWiz_val_3.jpg": "cup"}), write("val.json", [row]))
    assert result.score == pytest.approx(30.0)
