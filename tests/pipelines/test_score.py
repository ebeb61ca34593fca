"""`pipeline score` from outside: its JSON, its exit codes, its messages, and that it starts without a model library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def pipeline(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llavaflow.pipelines", "score", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    gold = {str(n): {"question": f"Q{n}?", "imageId": f"n{n}", "answer": "red", "types": {}} for n in range(2)}
    (tmp_path / "gold.json").write_text(json.dumps(gold))
    rows = [{"question_id": str(n), "prompt": f"Q{n}?", "text": text} for n, text in enumerate(("Red.", "blue"))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "a.jsonl", tmp_path / "gold.json"


def test_json_has_the_fields_of_the_contract(files: tuple[Path, Path]) -> None:
    answers, gold = files
    done = pipeline("gqa", "--answers", answers, "--gold", gold, "--json")
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 0
    assert {"benchmark", "score", "metrics", "n", "missing", "unparsed", "rule"} <= set(document)
    assert (document["benchmark"], document["score"], document["n"]) == ("gqa", 50.0, 2)


def test_table_names_score_unit_and_rule(files: tuple[Path, Path]) -> None:
    done = pipeline("gqa", "--answers", files[0], "--gold", files[1])
    assert done.returncode == 0 and "gqa: 50.00 percent" in done.stdout and "rule: Exact match" in done.stdout


def test_brackets_of_rules_questions_and_categories_are_printed_as_they_are(files: tuple[Path, Path]) -> None:
    answers, gold = files
    rows = [{"question_id": str(n), "prompt": "[INST] What? [/INST]", "text": "red"} for n in range(2)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = json.loads(gold.read_text())
    for row in document.values():
        row["types"] = {"structural": "query", "semantic": "[/x]"}
    gold.write_text(json.dumps(document))
    done = pipeline("gqa", "--answers", answers, "--gold", gold)
    assert done.returncode == 0, done.stderr
    assert "semantic.[/x]" in done.stdout and "[INST] What? [/INST]" in done.stdout
    box = {"image": "1.jpg", "expression": "dog", "bbox": [0, 0, 4, 4], "width": 8, "height": 8, "sent_id": 0}
    gold.write_text(json.dumps([box]))
    answers.write_text(json.dumps({"question_id": 0, "text": "[0, 0, 0.5, 0.5]"}))
    done = pipeline("refcoco", "--answers", answers, "--gold", gold)
    assert "the first [x1, y1, x2, y2] of the reply" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gqaa", "--answers", "a", "--gold", "g"), "Did you mean gqa"),
        (("gqa", "--answers", "nowhere.json", "--gold", "g"), "cannot read nowhere.json"),
        (("gqa", "--gold", "g"), "--answers"),
        (("gqa", "--answers", "a", "--gold", "g", "--reviews", "r"), "takes no --reviews"),
        (("gqa", "--answers", __file__, "--gold", "g"), "is not JSON"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(words: tuple[str, ...], message: str) -> None:
    done = pipeline(*words)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_hole_is_exit_2_unless_allowed(files: tuple[Path, Path]) -> None:
    answers, gold = files
    answers.write_text(answers.read_text().splitlines()[0])
    refused = pipeline("gqa", "--answers", answers, "--gold", gold)
    assert refused.returncode == 2 and "--allow-missing" in refused.stderr
    allowed = pipeline("gqa", "--answers", answers, "--gold", gold, "--allow-missing", "--json")
    assert json.loads(allowed.stdout)["missing"] == 1


def test_upload_needs_no_gold(files: tuple[Path, Path], tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text(
        "".join(json.dumps({"question_id": n, "text": "Q?", "image": f"{n}.jpg"}) + "\n" for n in range(3))
    )
    out = tmp_path / "up.json"
    done = pipeline("vqav2", "--answers", files[0], "--questions", questions, "--upload", out, "--json")
    assert json.loads(done.stdout) == {"benchmark": "vqav2", "upload": str(out), "filled": 1}
    assert [row["answer"] for row in json.loads(out.read_text())] == ["red", "blue", ""]


@pytest.mark.parametrize(
    ("bench", "questions", "keys"),
    [
        ("vqav2", {"questions": [{"question_id": n, "image_id": 7, "question": f"Q{n}?"} for n in (4, 5)]}, (4, 5)),
        ("vizwiz", [{"image": f"{n}.jpg", "question": f"Q{n}?"} for n in range(2)], ("0.jpg", "1.jpg")),
    ],
)
def test_upload_takes_the_authors_own_file_of_a_test_split(
    tmp_path: Path, bench: str, questions: Any, keys: tuple[Any, ...]
) -> None:
    (tmp_path / "q.json").write_text(json.dumps(questions))
    first = "4" if bench == "vqav2" else "0"
    (tmp_path / "a.json").write_text(json.dumps({first: "Two."}))
    words = (bench, "--answers", tmp_path / "a.json", "--questions", tmp_path / "q.json", "--upload")
    done = pipeline(*words, tmp_path / "up.json", "--json")
    assert json.loads(done.stdout)["filled"] == 1
    name = "question_id" if bench == "vqav2" else "image"
    assert json.loads((tmp_path / "up.json").read_text()) == [
        {name: keys[0], "answer": "2"}, {name: keys[1], "answer": ""}
    ]  # fmt: skip


def test_an_upload_with_holes_is_written_and_not_scored(tmp_path: Path) -> None:
    rows = [{"question_id": f"{n}", "answer": "A", "data_type": "image", "question_type_id": 1} for n in range(2)]
    (tmp_path / "SEED-Bench.json").write_text(json.dumps({"questions": rows, "question_type": {"Scene": 1}}))
    (tmp_path / "a.json").write_text(json.dumps({"1": "A"}))
    words = ("seed", "--answers", tmp_path / "a.json", "--gold", tmp_path, "--json", "--upload")
    done = pipeline(*words, tmp_path / "up.jsonl")
    document = json.loads(done.stdout)
    assert (done.returncode, document["filled"]) == (0, 1) and "score" not in document
    assert "--allow-missing" in document["not_scored"]
    assert [json.loads(line)["prediction"] for line in (tmp_path / "up.jsonl").read_text().splitlines()] == ["", "A"]
    assert json.loads(pipeline(*words, tmp_path / "again.jsonl", "--allow-missing").stdout)["score"] == 50.0


def test_upload_of_a_judged_benchmark_asks_no_judge(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps({"question_id": 0, "text": "What?", "image": "v1_0.png"}))
    (tmp_path / "a.jsonl").write_text(json.dumps({"question_id": 0, "prompt": "What?", "text": "two"}))
    out = tmp_path / "up.json"
    done = pipeline("mmvet", "--answers", tmp_path / "a.jsonl", "--gold", tmp_path / "q.jsonl", "--upload", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == {"v1_0": "two"}


def test_judge_by_name_answers_on_loopback(tmp_path: Path) -> None:
    rows = {
        "qa90_questions": {"question_id": 0, "image": "1.jpg", "text": "What is it?", "category": "conv"},
        "qa90_gpt4_answer": {"question_id": 0, "text": "a red dog"},
        "caps_boxes_coco2014_val_80": {"image": "1.jpg", "captions": ["a red dog"], "instances": []},
        "answers": {"question_id": 0, "prompt": "What is it?", "text": "a blue dog"},
    }
    for name, row in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    answers = tmp_path / "answers.jsonl"
    words = ("llava-bench-coco", "--answers", answers, "--gold", tmp_path, "--judge", "llavaflow-local-judge", "--json")
    documents = [json.loads(pipeline(*words, "--judge-runs", runs).stdout) for runs in (1, 2)]
    assert [document["score"] for document in documents] == [70.0, 70.0]
    assert [document["judge"]["requests"] for document in documents] == [1, 2]
    assert documents[1]["metrics"]["runs"] == [70.0, 70.0]
    # the second command asked for the second run alone
    ledger = (tmp_path / "answers.jsonl.judge.jsonl").read_text()
    assert ledger.count('"answered"') == 2
    assert len(list((tmp_path / "answers.jsonl.reviews").iterdir())) == 2


def test_scoring_loads_neither_torch_nor_ray_nor_pyarrow(files: tuple[Path, Path]) -> None:
    script = (
        "import sys; from llavaflow.pipelines._cli.score import command; "
        f"command(['gqa','--answers',{str(files[0])!r},'--gold',{str(files[1])!r},'--json'], standalone_mode=False); "
        "print({'torch','transformers','ray','prefect','pyarrow','openai'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("set()")
