"""Benchmarks answered with a letter: ScienceQA, SEED, MMBench, AI2D, RealWorldQA, MMMU, and the letter readers."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets.benchmarks._answers import read_answers
from llavaflow.datasets.benchmarks._benchmark import Options, Prompt, load_benchmark
from llavaflow.datasets.benchmarks._choices import best_letter, inferred_option
from llavaflow.datasets.benchmarks._mmmu_replies import open_matches, read_choice
from llavaflow.datasets.benchmarks._upload import write as write_upload
from llavaflow.datasets.benchmarks.scienceqa import letter
from llavaflow.infra.errors import InputError
from llavaflow.tests.datasets.benchmarks.conftest import LETTER, TRICKY, llava, score

OPTIONS = {"A": "red cat", "B": "blue dog", "C": "a car", "D": "nothing"}


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("B", "B"), ("B.", "B"), ("(B)", "B"), ("B)", "B"), ("The answer is B", "B"), ("It is the blue dog.", "B"),
        ("A cat or B", None), ("A or B", None), ("", None), ("E", "E"), ("F", None), ("A large red cat sleeps", "A"),
        ("A large thing indeed", None), ("B, because", "B"), ("red cat and blue dog", None),
    ],
)  # fmt: skip
def test_mmbench_reading(reply: str, read: str | None) -> None:
    assert inferred_option(reply, OPTIONS) == read


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("B", "B"), ("B.", "B"), ("The correct answer is (C).", "C"), ("A. red", "A"), ("I choose D because of A", "A"),
        ("First (A), then (B)", "B"), ("", None), ("none", None), ("Best: C", "C"), ("ABBA", "A"),
    ],
)  # fmt: skip
def test_ranked_reading(reply: str, read: str | None) -> None:
    assert best_letter(reply, "ABCD") == read


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("B", "B"), ("B. blue", "B"), ("The answer is C.", "C"), ("The answer is A. The answer is B.", None),
        ("b", None), ("B.blue", None), (" B", None), ("F", None), ("The answer is F.", "F"), ("", None), ("AB", None),
    ],
)  # fmt: skip
def test_scienceqa_reading(reply: str, read: str | None) -> None:
    assert letter(reply) == read


def science(write: Any) -> Path:
    problems = {
        "1": {"question": "Q", "choices": ["x", "y\nz"], "answer": 1, "image": "image.png", "split": "test"},
        "2": {"question": "Q", "choices": ["x", "y"], "answer": 0, "image": None, "split": "test"},
        "3": {"question": "Q", "choices": ["x", "y"], "answer": 0, "image": None, "split": "train"},
    }
    write("s/pid_splits.json", {"test": ["1", "2"], "train": ["3"]})
    return Path(write("s/problems.json", problems)).parent


def test_scienceqa_score_is_over_questions_with_an_image(write: Any) -> None:
    result = score("scienceqa", write("a.json", {"1": "B", "2": "B"}), science(write))
    assert (result.score, result.metrics["all"], result.metrics["n_img"]) == (100.0, 50.0, 1)


def test_scienceqa_letter_beyond_the_choices_is_wrong_but_read(write: Any) -> None:
    result = score("scienceqa", write("a.json", {"1": "C", "2": "what?"}), science(write))
    assert (result.score, result.unparsed) == (0.0, 1)


def test_scienceqa_reads_its_own_result_files(write: Any) -> None:
    stored = {"acc": 75.0, "results": {"1": 1}, "outputs": {"1": "The answer is B.", "2": "The answer is A."}}
    assert score("scienceqa", write("a.json", stored), science(write)).metrics["all"] == 100.0


def seed(write: Any) -> Path:
    rows = [
        {"question_id": str(n), "answer": "A", "data_type": kind, "question_type_id": n % 2 + 1}
        for n, kind in enumerate(("image", "image", "image", "video"))
    ]
    return Path(write("SEED-Bench.json", {"questions": rows, "question_type": {"Scene": 1, "Action": 2}}))


def test_seed_pools_all_and_keeps_image_and_video_apart(write: Any) -> None:
    rows = llava([{"question_id": n, "prompt": "p", "text": text} for n, text in enumerate(("A", "A", "A.", "A"))])
    result = score("seed", write("a.jsonl", rows), seed(write))
    assert result.score == 75.0 and result.metrics["image"] == pytest.approx(200 / 3)
    assert result.metrics["video"] == 100.0 and result.metrics["rows"] == {"image": 3, "video": 1}
    assert result.metrics["dimensions"] == {"Action": 100.0, "Scene": 50.0}
    assert result.metrics["lmms_eval_first_letter"] == 100.0 and result.unparsed == 1


def mmbench(write: Any, answers: bool = True) -> Path:
    rows = [
        {"index": n + turn * 1_000_000, "question": f"Q{n}", "hint": "nan", "A": "x", "B": "y", "C": "", "D": "",
         "answer": "AB"[turn] if answers else "", "category": "cat", "image": "base64", "source": "s",
         "comment": "", "l2-category": "l", "split": "dev"}
        for n in (1, 2) for turn in (0, 1)
    ]  # fmt: skip
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t")
    writer.writeheader()
    writer.writerows(rows)
    return Path(write("mmbench_dev_20230712.tsv", stream.getvalue()))


def test_mmbench_counts_a_question_only_if_every_rotation_is_right(write: Any) -> None:
    texts = {"1": "A", "1000001": "B", "2": "A", "1000002": "A"}
    result = score("mmbench", write("a.json", texts), mmbench(write))
    assert (result.score, result.metrics["row_accuracy"], result.metrics["base_rotation_accuracy"]) == (50, 75, 100)
    assert result.metrics["base_questions"] == 2 and result.n == 4


def test_mmbench_asks_the_judge_only_where_the_rules_end(write: Any) -> None:
    asked: list[str] = []

    def judge(prompts: Sequence[Prompt]) -> list[str]:
        asked.extend(prompt.text for prompt in prompts)
        return ["A"] * len(prompts)

    texts = {"1": "the first one", "1000001": "B", "2": "A", "1000002": "y"}
    answers = write("a.json", texts)
    assert score("mmbench", answers, mmbench(write)).unparsed == 1
    assert score("mmbench", answers, mmbench(write), judge).score == 100.0
    assert len(asked) == 1 and "the first one" in asked[0]


def test_mmbench_upload_is_the_converters_sheet(write: Any, tmp_path: Path) -> None:
    from openpyxl import load_workbook

    given = read_answers(write("a.json", {"1": "A\x00\x0b", "2": "B"}))
    filled = write_upload(load_benchmark("mmbench"), given, mmbench(write, False), Options(), tmp_path / "up.xlsx")
    rows = list(load_workbook(tmp_path / "up.xlsx").active.values)
    assert rows[0] == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert rows[1] == (1, "Q1", "x", "y", None, None, "A", None, "dev")
    assert [row[6] for row in rows[1:]] == ["A", None, "B", None] and filled == 2


def test_mmbench_without_answers_is_a_test_set(write: Any) -> None:
    texts = dict.fromkeys(("1", "1000001", "2", "1000002"), "A")
    with pytest.raises(InputError, match="no answers.*--upload"):
        score("mmbench", write("a.json", texts), mmbench(write, False))


def test_ai2d_takes_the_letter(write: Any) -> None:
    rows = [
        {"question_id": f"{n}.png-1", "image": f"images/{n}.png", "question": f"Q{n}{LETTER}", "answer": "B"}
        for n in range(5)
    ]
    texts = {f"{n}.png-1": text for n, text in enumerate(("B", "B. blue", "b", "(B)", "It is B"))}
    result = score("ai2d", write("a.json", texts), write("test.jsonl", rows))
    assert (result.score, result.unparsed) == (80.0, 1)


def test_realworldqa_takes_letters_and_words(write: Any) -> None:
    rows = [{"id": n, "question": f"q{n}", "answer": answer} for n, answer in enumerate(("A", "Downhill", "0"))]
    gold = write("r.jsonl", rows)
    assert score("realworldqa", write("a.json", {"0": "A. left", "1": "downhill.", "2": "0"}), gold).score == 100
    assert score("realworldqa", write("b.json", {"0": "none", "1": "", "2": "٠"}), gold).unparsed == 1


CHOICES = {"A": "$6", "B": "seven apples", "C": "$8"}


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("B", "B"), ("(B)", "B"), ("A or B", "B"), ("(A) but not B", "A"), ("D", None), ("", None),
        ("there are seven apples on the table", "B"), ("seven apples", None), ("'C.", "C"),
    ],
)  # fmt: skip
def test_mmmu_choice_reading(reply: str, read: str | None) -> None:
    assert read_choice(reply, CHOICES) == read


@pytest.mark.parametrize(
    ("reply", "gold", "right"),
    [
        ("The answer is 2.004", "2.00", True), ("so it is 1,000", "1000", True), ("x = 3", "3", True),
        ("a blue car", "blue", True), ("blue", ["red", "blue"], True), ("", "x", False),
        ("it is c", "c", True), ("cat", "c", False), ("１２", "12", True), ("5 or 6", "6", True),
    ],
)  # fmt: skip
def test_mmmu_open_reading(reply: str, gold: Any, right: bool) -> None:
    assert open_matches(reply, gold) is right


def mmmu(write: Any, n: int) -> Path:
    rows = {f"validation_Art_{k}": {"question_type": "multiple-choice", "ground_truth": "A"} for k in range(n)}
    return Path(write("answer_dict_val.json", rows))


def test_mmmu_guesses_in_gold_order_so_shuffled_answers_score_the_same(write: Any) -> None:
    rows = [
        {"id": f"validation_Art_{k}", "response": "no idea", "all_choices": list("ABCD"), "answer": "A",
         "question_type": "multiple-choice", "index2ans": {letter: f"option {letter}" for letter in "ABCD"}}
        for k in range(40)
    ]  # fmt: skip
    gold = mmmu(write, 40)
    before = score("mmmu", write("a.json", rows), gold)
    rng = random.Random(42)
    assert before.score == 100 * sum(rng.choice(list("ABCD")) == "A" for _ in range(40)) / 40
    assert (before.metrics["guessed"], before.metrics["guesses_wrong"], before.unparsed) == (40, 0.0, 40)
    random.Random(3).shuffle(rows)
    assert score("mmmu", write("b.json", rows), gold).as_json() == before.as_json()


def test_mmmu_guesses_nothing_without_options_and_says_so(write: Any) -> None:
    texts = {f"validation_Art_{k}": text for k, text in enumerate(("A", "no idea"))}
    result = score("mmmu", write("a.json", texts), mmmu(write, 2))
    assert (result.score, result.unparsed, result.metrics["guessed"]) == (50.0, 1, 0)
    assert result.notes == ("2 questions come without their options: letters are read, and nothing is guessed",)


def test_mmmu_domains_are_pooled(write: Any) -> None:
    ids = ("validation_Art_1", "validation_Music_1", "validation_Music_2", "validation_Math_1")
    gold = write("g.json", {id: {"question_type": "multiple-choice", "ground_truth": "A"} for id in ids})
    result = score("mmmu", write("a.json", dict(zip(ids, "ABAA", strict=True))), gold)
    assert result.metrics["domain"] == {"Art and Design": pytest.approx(200 / 3), "Science": 100.0}
    assert result.score == 75.0


@pytest.mark.parametrize("name", ["scienceqa", "seed", "mmbench"])
def test_tricky_replies_are_wrong_not_fatal(write: Any, name: str) -> None:
    gold, ids = {
        "scienceqa": (science, ("1", "2")),
        "seed": (seed, "0123"),
        "mmbench": (mmbench, ("1", "1000001", "2", "1000002")),
    }[name]
    for place in range(len(TRICKY)):
        texts = {id: TRICKY[(place + n) % len(TRICKY)] for n, id in enumerate(ids)}
        assert 0 <= score(name, write("a.json", texts), gold(write)).score < 100


@pytest.mark.parametrize("prompts", [True, False])
def test_seed_knows_two_questions_of_one_id_apart(write: Any, prompts: bool) -> None:
    """The official file gives id 49914 to two of its 19,242 questions; the order of the answers says nothing."""
    gold = [
        {"question_id": "49914", "question": f"Q{n}?", "answer": letter, "data_type": "image", "question_type_id": 1}
        for n, letter in enumerate("BA")
    ]
    rows = [
        {"question_id": 49914, "text": text, **({"prompt": f"Q{n}?\nA. x\nB. y{LETTER}"} if prompts else {})}
        for n, text in enumerate("AA")
    ]
    rows[0 if prompts else 1]["text"] = "B"
    path = write("SEED-Bench.json", {"questions": gold, "question_type": {"Scene": 1}})
    scores = [score("seed", write("a.jsonl", order), path).score for order in (rows, rows[::-1])]
    assert scores == ([100.0, 100.0] if prompts else [0.0, 0.0])
    with pytest.raises(InputError, match="repeat a question"):
        score("seed", write("b.jsonl", [*rows, rows[0]]), path)


def test_mmmu_reads_the_hubs_parquet_without_its_pictures(write: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"id": f"validation_Art_{n}", "question": "Q", "options": "['x', 'y']", "answer": "B", "img_type": "['P']",
         "question_type": "multiple-choice", "image_1": {"bytes": b"png", "path": "a.png"}}
        for n in range(2)
    ]  # fmt: skip
    (tmp_path / "Art").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "Art" / "validation-00000-of-00001.parquet")
    answers = write("a/a.json", {row["id"]: "(B)" for row in rows})
    result = score("mmmu", answers, tmp_path / "Art")
    assert result.score == 100 and result.metrics["subject"] == {"Art": 100.0}
