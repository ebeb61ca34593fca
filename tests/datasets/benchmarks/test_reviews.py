"""Judged benchmarks: the reading of reviews and grades, what is left out, and what several runs give."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets.benchmarks._answers import read_answers
from llavaflow.datasets.benchmarks._benchmark import Options, Prompt, load_benchmark
from llavaflow.datasets.benchmarks._reviews import parse_scores, ratio
from llavaflow.datasets.benchmarks._upload import write as write_upload
from llavaflow.datasets.benchmarks.mmvet import parse_grade
from llavaflow.infra.errors import InputError
from llavaflow.tests.datasets.benchmarks.conftest import llava, score


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("8 7\nBoth are good.", (8, 7)), ("8.5, 7", (8.5, 7)), ("8 7 6", None), ("8", None), ("", None),
        ("Scores: 8 7", None), ("8/10 7/10", None), ("11 7", None), ("-1 -1", None), ("8\n7", None), ("nan 7", None),
    ],
)  # fmt: skip
def test_score_pair_is_the_first_line_and_nothing_else(reply: str, scores: Any) -> None:
    assert parse_scores(reply) == scores


@pytest.mark.parametrize(
    ("reply", "grade"), [("0.5", 0.5), ("1.0 because", 1.0), ("", None), ("right", None), ("1.2", None), ("-0.1", None)]
)
def test_grade_is_a_number_from_nought_to_one(reply: str, grade: Any) -> None:
    assert parse_grade(reply) == grade


def test_means_are_rounded_before_the_ratio() -> None:
    assert ratio([(8, 7), (9, 8), (8, 8)]) == {"relative": 92.0, "reference": 83.3, "model": 76.7}
    assert ratio([]) is None


def test_ratio_ends_on_upstreams_last_digit() -> None:
    """Where exact sums or another order of multiplying would round the other way; the figures are upstream's."""
    assert ratio([(4.08, 2.499)]) == {"relative": 61.3, "reference": 40.8, "model": 25.0}
    references, models = (6.6, 6.6, 8.2, 8.8, 5.1, 5.1, 5.9, 9.6), (5.6, 9.6, 6.3, 7.7, 6.4, 7.5, 5.2, 6.0)
    found = ratio(list(zip(references, models, strict=True)))
    assert found == {"relative": 97.2, "reference": 69.9, "model": 67.9}


def wild(write: Any) -> Path:
    kinds = ("conv", "detail", "complex")
    questions = [{"question_id": n, "image": "1.jpg", "text": f"Q{n}", "category": k} for n, k in enumerate(kinds)]
    write("w/context.jsonl", [{"id": "1", "image": "1.jpg", "caption": "A dog."}])
    write("w/answers_gpt4.jsonl", [{"question_id": n, "text": f"ref {n}", "answer_id": f"r{n}"} for n in range(3)])
    return Path(write("w/questions.jsonl", questions)).parent


def answers(write: Any) -> Path:
    rows = [{"question_id": n, "prompt": f"Q{n}", "text": f"said {n}"} for n in range(3)]
    return Path(write("a.jsonl", llava(rows)))


def reviews(write: Any, name: str, pairs: list[tuple[float, float]]) -> Path:
    kinds = ("conv", "detail", "complex")
    rows = [
        {"id": n + 1, "question_id": n, "category": f"llava_bench_{k}", "content": "", "tuple": pair}
        for n, (k, pair) in enumerate(zip(kinds, pairs, strict=True))
    ]
    return Path(write(name, rows[::-1]))


def test_failed_review_is_left_out_and_upstreams_average_is_in_the_metrics(write: Any) -> None:
    stored = reviews(write, "r.jsonl", [(8, 6), (10, 9), (-1, -1)])
    result = score("llava-bench-wild", answers(write), wild(write), reviews=(stored,))
    assert result.score == round(100 * 7.5 / 9, 1)
    assert result.metrics["with_failed"]["relative"] == round(100 * round(14 / 3, 3) / round(17 / 3, 3), 1)
    assert (result.metrics["failed"], result.unparsed) == (1, 1)
    assert result.metrics["complex"] is None and result.metrics["conv"]["relative"] == 75.0


def test_runs_give_a_mean_and_a_spread(write: Any) -> None:
    files = tuple(reviews(write, f"{n}.jsonl", [(10, s), (10, s), (10, s)]) for n, s in enumerate((6, 8)))
    result = score("llava-bench-wild", answers(write), wild(write), reviews=files)
    assert (result.score, result.metrics["runs"], result.metrics["spread"]) == (70.0, [60.0, 80.0], 10.0)


@pytest.mark.parametrize("pair", [(11, 5), (8, float("inf")), (8, float("nan")), (8, -0.5)])
def test_stored_pair_out_of_range_is_a_failed_review(write: Any, pair: tuple[float, float]) -> None:
    stored = reviews(write, "r.jsonl", [(8, 6), (10, 9), pair])
    result = score("llava-bench-wild", answers(write), wild(write), reviews=(stored,))
    assert (result.score, result.metrics["failed"]) == (83.3, 1)


def test_reviews_and_grades_of_other_questions_are_told(write: Any) -> None:
    stored = reviews(write, "r.jsonl", [(8, 6), (10, 9), (1, 1)])
    more = write("more.jsonl", stored.read_text() + json.dumps({"question_id": 77, "tuple": [1, 1]}))
    told = score("llava-bench-wild", answers(write), wild(write), reviews=(stored, more)).notes
    assert told == ("1 entries of more.jsonl belong to no question of this gold and were left out",)
    grades = write("g.json", {f"v1_{n}": {"score": [0.5]} for n in range(5)})
    texts = write("a.json", {f"v1_{n}": "x" for n in range(3)})
    told = score("mmvet", texts, vet(write), reviews=(grades,)).notes
    assert told == ("2 entries of g.json belong to no question of this gold and were left out",)


def test_mmvet_answer_that_is_missing_and_not_graded_is_wrong(write: Any) -> None:
    texts = write("a.json", {"v1_0": "x"})
    grades = write("g.json", {"v1_0": {"score": [0.9, 0.6]}})
    result = score("mmvet", texts, vet(write), reviews=(grades,), allow_missing=True)
    assert result.metrics["runs"] == pytest.approx([30.0, 20.0])
    assert (result.missing, result.metrics["failed"], result.metrics["answered_only"]) == (2, 0, pytest.approx(75.0))
    with pytest.raises(InputError, match="nothing to average"):
        score("mmvet", texts, vet(write), reviews=(write("e.json", {}),), allow_missing=True)


def test_incomplete_or_double_reviews_are_refused(write: Any) -> None:
    stored = reviews(write, "r.jsonl", [(8, 6), (10, 9), (1, 1)])
    lines = stored.read_text().splitlines()
    with pytest.raises(InputError, match="lacks the review of 1 questions"):
        score("llava-bench-wild", answers(write), wild(write), reviews=(write("s.jsonl", "\n".join(lines[1:])),))
    with pytest.raises(InputError, match="a second time"):
        score("llava-bench-wild", answers(write), wild(write), reviews=(write("d.jsonl", "\n".join(lines * 2)),))


def test_without_reviews_and_judge_the_way_out_is_named(write: Any) -> None:
    with pytest.raises(InputError, match="--reviews FILE, or --judge MODEL"):
        score("llava-bench-wild", answers(write), wild(write))


def test_judge_reads_context_question_reference_candidate_and_rule_in_order(write: Any) -> None:
    prompts: list[str] = []

    def judge(asked: Sequence[Prompt]) -> list[str]:
        prompts.extend(prompt.text for prompt in asked)
        assert all(prompt.temperature == 0.2 and "quality" in prompt.system for prompt in asked)
        return ["10 5\nfine" if prompt.attempt else "hm" for prompt in asked]

    assert score("llava-bench-wild", answers(write), wild(write), judge).score == 50.0
    assert len(prompts) == 6 and prompts[0] == prompts[3]
    parts = (
        "[Context]\nA dog.",
        "[Question]\nQ0",
        "[Assistant 1]\nref 0",
        "[Assistant 2]\nsaid 0",
        "[System]\nWe would",
    )
    assert [prompts[0].index(part) for part in parts] == sorted(prompts[0].index(part) for part in parts)


def test_coco_context_has_captions_and_boxes(write: Any) -> None:
    write("c/qa90_questions.jsonl", [{"question_id": 0, "image": "1.jpg", "text": "Q", "category": "conv"}])
    write("c/qa90_gpt4_answer.jsonl", [{"question_id": 0, "text": "ref"}])
    instances = [{"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}]
    row = {"id": "1", "image": "1.jpg", "captions": ["One.", "Two."], "instances": instances}
    gold = Path(write("c/caps_boxes_coco2014_val_80.jsonl", [row])).parent
    seen: list[str] = []

    def judge(asked: Sequence[Prompt]) -> list[str]:
        seen.extend(prompt.text for prompt in asked)
        return ["10 10"] * len(asked)

    assert (
        score("llava-bench-coco", write("a.jsonl", llava([{"question_id": 0, "text": "x"}])), gold, judge).score == 100
    )
    assert "One.\nTwo.\n\ndog: [0.1, 0.2, 0.3, 0.4]\n\n[Question]" in seen[0]


def vet(write: Any) -> Path:
    rows = {
        f"v1_{n}": {"imagename": f"v1_{n}.png", "question": f"Q{n}", "answer": "a<AND>b", "capability": list(skills)}
        for n, skills in enumerate((("ocr", "math"), ("rec",), ("ocr",)))
    }
    return Path(write("mm-vet.json", rows))


def test_mmvet_averages_runs_and_splits_by_capability(write: Any) -> None:
    grades = {
        "v1_0": {"score": [0.0, 0.0]}, "v1_1": {"score": [1.0, 0.5]}, "v1_2": {"score": [0.5, -1]},
    }  # fmt: skip
    texts = write("a.json", {f"v1_{n}": "x" for n in range(3)})
    result = score("mmvet", texts, vet(write), reviews=(write("g.json", grades),))
    assert result.metrics["runs"] == [50.0, 25.0] and result.score == 37.5
    assert result.metrics["failed"] == 1
    assert result.metrics["capability"]["ocr"] == 25.0 and result.metrics["combination"]["ocr_math"] == 0.0


def test_mmvet_asks_again_hotter_and_leaves_out_what_stays_unreadable(write: Any) -> None:
    temperatures: list[float] = []

    def judge(asked: Sequence[Prompt]) -> list[str]:
        return [reply(prompt) for prompt in asked]

    def reply(prompt: Prompt) -> str:
        last = prompt.text.removesuffix("\nPredict the correctness of the answer (digit): ").splitlines()[-1]
        if last.startswith("Q0"):
            temperatures.append(prompt.temperature)
            assert "a <AND> b" in last
            return "cannot say"
        return "0.8"

    result = score("mmvet", write("a.json", {f"v1_{n}": "x" for n in range(3)}), vet(write), judge)
    assert temperatures == [0.0, 0.5, 1.0, 1.5]
    assert result.score == pytest.approx(80.0) and result.unparsed == 1


def test_judge_texts_name_their_source() -> None:
    from llavaflow.datasets.benchmarks._reviews import TEXTS

    assert "LLaVA" in TEXTS["source"] and json.dumps(TEXTS).count("two scores are separated by a space") == 2


def test_mmvet_upload_names_questions_as_its_server_does(write: Any, tmp_path: Path) -> None:
    questions = write("q.jsonl", [{"question_id": 0, "image": "v1_0.png", "text": "Q"}])
    ours = write("a.jsonl", llava([{"question_id": 0, "prompt": "Q", "text": "seven"}]))
    theirs = write("a.json", {"v1_0": "seven"})
    for number, path in enumerate((ours, theirs)):
        out = tmp_path / f"up{number}.json"
        write_upload(load_benchmark("mmvet"), read_answers(path), questions, Options(), out)
        assert json.loads(out.read_text()) == {"v1_0": "seven"}


def test_upload_into_no_folder_is_refused_in_words(write: Any, tmp_path: Path) -> None:
    questions = write("q.jsonl", [{"question_id": 0, "image": "v1_0.png", "text": "Q"}])
    given = read_answers(write("a.json", {"v1_0": "seven"}))
    with pytest.raises(InputError, match=r"cannot write .*up.json: No such file or directory"):
        write_upload(load_benchmark("mmvet"), given, questions, Options(), tmp_path / "none" / "up.json")
