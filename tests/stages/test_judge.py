"""The judge stage with the local double: reviews and grades in the authors' forms, with who judged and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llavaflow.stages._judging import Judging
from llavaflow.stages._local_judge import NAME, TITLE
from llavaflow.stages.judge import Judge


def write_questions(root: Path) -> None:
    folder = root / "eval/llava-bench-coco"
    folder.mkdir(parents=True)
    rows = {
        "qa90_questions": {"question_id": 0, "image": "1.jpg", "text": "What is it?", "category": "conv"},
        "qa90_gpt4_answer": {"question_id": 0, "text": "a red dog"},
        "caps_boxes_coco2014_val_80": {"image": "1.jpg", "captions": ["a red dog"], "instances": []},
    }
    for name, row in rows.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")


def write_answers(root: Path) -> None:
    (root / "answers").mkdir()
    row = {"question_id": 0, "prompt": "What is it?", "text": "a blue dog", "answer_id": "x"}
    (root / "answers/llava-bench-coco.jsonl").write_text(json.dumps(row) + "\n")


def test_stage_reviews_with_the_local_judge_in_runs(bench: Any) -> None:
    stage = Judge(
        answers=bench.given("answers", write_answers),
        questions=bench.given("questions", write_questions),
        review=Judging(runs=2),
    )
    artifact = bench.run(stage)
    root = bench.path(artifact)
    judged = artifact.facts["judged"]["llava-bench-coco"]
    assert (judged["judge"], judged["failed"], judged["runs"], judged["conv"]) == (NAME, 0, 2, 70.0)
    assert TITLE in artifact.facts["scores"]["llava-bench-coco"]["rule"]
    assert artifact.facts["scores"]["llava-bench-coco"]["score"] == 70.0
    assert len(list((root / "reviews").iterdir())) == 2
    review = json.loads((root / "reviews/llava-bench-coco.0.jsonl").read_text())
    assert set(review) == {"id", "question_id", "answer1_id", "answer2_id", "category", "content", "tuple"}
    judge = json.loads((root / "scores.json").read_text())["judge"]
    assert (judge["model"], judge["answered_by"], judge["requests"]) == (NAME, [NAME], 2)
    assert judge["date"].startswith("20")


def test_stage_grades_mmvet_in_its_own_form(bench: Any) -> None:
    def questions(root: Path) -> None:
        (root / "eval/mmvet").mkdir(parents=True)
        row = {"imagename": "v1_0.png", "question": "What?", "answer": "two dogs", "capability": ["rec"]}
        (root / "eval/mmvet/mm-vet.json").write_text(json.dumps({"v1_0": row}))

    def answers(root: Path) -> None:
        (root / "answers").mkdir()
        (root / "answers/mmvet.jsonl").write_text(json.dumps({"question_id": 0, "text": "two cats"}) + "\n")

    given = {"answers": bench.given("answers", answers), "questions": bench.given("questions", questions)}
    artifact = bench.run(Judge(**given, review=Judging(benchmarks=("mmvet",), runs=2)))
    assert artifact.facts["scores"]["mmvet"]["score"] == 50.0
    grades = json.loads((bench.path(artifact) / "reviews/mmvet.json").read_text())
    assert grades == {"v1_0": {"model": [NAME, NAME], "content": ["0.5", "0.5"], "score": [0.5, 0.5]}}
