"""Results of lmms-eval become a Scores artifact: in the units of our columns, under the harness's name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets.benchmarks._benchmark import load_benchmark
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.stages._compare import compare
from llavaflow.stages._lmms_results import read_run, tasks
from llavaflow.stages._lmms_run import COMMAND
from llavaflow.stages.lmms_eval import LmmsEval

STAMP = "20260101_120000"


def results(folder: Path, gqa: float = 0.62) -> Path:
    """What the harness writes for three tasks, one of which is no benchmark of ours."""
    document = {
        "results": {
            "gqa": {"alias": "gqa", "exact_match,none": gqa, "exact_match_stderr,none": 0.004},
            "mme": {"mme_cognition_score,none": 330.0, "mme_perception_score,none": 1519.5},
            "videothing": {"alias": "videothing", "thing_acc,none": 0.25, "other,none": 0.5},
            "refcoco": {"alias": "refcoco"},
        },
        "configs": {"videothing": {"metric_list": [{"metric": "thing_acc"}]}},
        "n-samples": {"gqa": {"original": 12578, "effective": 2}, "mme": {"original": 2374, "effective": 2374}},
        "config": {"model": "llava", "model_args": "pretrained=liuhaotian/llava-v1.5-7b"},
        "git_hash": "abc1234", "model_name": "llava-v1.5-7b", "date": STAMP,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{STAMP}_results.json").write_text(json.dumps(document))
    return folder


def samples(folder: Path, marks: tuple[float, ...]) -> None:
    rows = [
        {"doc_id": n, "input": f"Q{n}?", "target": "red", "filtered_resps": [["red"]], "exact_match": mark}
        for n, mark in enumerate(marks)
    ]
    (folder / f"{STAMP}_samples_gqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_numbers_come_in_the_unit_of_the_column_and_name_the_harness(bench: Any, tmp_path: Path) -> None:
    folder = results(tmp_path / "llava-v1.5-7b")
    samples(folder, (1.0, 0.0))
    artifact = bench.run(LmmsEval(results=tmp_path))
    scores = artifact.facts["scores"]
    assert {name: row["score"] for name, row in scores.items()} == {"gqa": 62.0, "mme": 1519.5, "videothing": 0.25}
    assert "lmms-eval git abc1234" in scores["gqa"]["rule"] and scores["gqa"]["n"] == 2
    root = bench.path(artifact)
    document = json.loads((root / "scores.json").read_text())
    assert (document["engine"], document["model"]) == ("lmms-eval", "llava-v1.5-7b")
    assert document["results"]["mme"]["images"]["metrics"]["mme_cognition_score"] == 330.0
    lines = [json.loads(line) for line in (root / "answers/gqa.jsonl").read_text().splitlines()]
    assert [line["metadata"]["mark"] for line in lines] == [1.0, 0.0] and lines[0]["text"] == "red"
    page = (root / "report.md").read_text()
    assert "| gqa | 2 | 62.0 |" in page and "LLaVA-1.5 7B" in page
    assert (root / "pictures").is_dir() and "lmms-eval" in (root / "report.html").read_text()


def test_tasks_of_one_benchmark_stand_apart_and_what_is_no_number_is_none(bench: Any, tmp_path: Path) -> None:
    """The harness's group mathvista_testmini is three prompts of one benchmark; Python writes an empty mean as NaN."""
    file = results(tmp_path / "run") / f"{STAMP}_results.json"
    document = json.loads(file.read_text())
    document["results"] = {
        "gqa": {"exact_match,none": float("nan")}, "pope": {"pope_f1_score,none": 0.5},
        **{f"mathvista_testmini_{way}": {"llm_as_judge_eval,none": way_score} for way, way_score in
           (("cot", 30.0), ("format", 40.0))},
    }  # fmt: skip
    file.write_text(json.dumps(document))
    scores = bench.run(LmmsEval(results=tmp_path)).facts["scores"]
    told = {name: row["score"] for name, row in scores.items()}
    assert told == {"pope": 50.0, "mathvista_testmini_cot": 30.0, "mathvista_testmini_format": 40.0}


def test_two_runs_are_compared_question_by_question(bench: Any, tmp_path: Path) -> None:
    roots = []
    for name, marks in (("a", (1.0, 0.0, 0.0)), ("b", (1.0, 1.0, 0.0))):
        samples(results(tmp_path / name), marks)
        roots.append(bench.path(bench.run(LmmsEval(results=tmp_path / name))))
    (found,) = compare(*roots)
    assert (found.benchmark, found.n, [flip.question_id for flip in found.flips]) == ("gqa", 3, ["1"])


def test_every_known_task_leads_to_a_benchmark() -> None:
    for benchmark, metric, scale in tasks().values():
        assert benchmark is not None and load_benchmark(benchmark) and metric and scale in (1, 100)


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results of lmms-eval"):
        read_run(tmp_path)
    (tmp_path / "x_results.json").write_text("{}")
    with pytest.raises(InputError, match="no results and config"):
        read_run(tmp_path)
    results(tmp_path / "one"), results(tmp_path / "two")
    with pytest.raises(InputError, match="several models"):
        read_run(tmp_path)


HARNESS = """
import json, os, pathlib, sys
if sys.argv[1:] == ["version"]:
    print("lmms-eval 9.9.9\\nPython 3")
    sys.exit()
words = dict(zip(sys.argv[1:], sys.argv[2:]))
with open(pathlib.Path(__file__).with_name("calls.jsonl"), "a") as calls:
    calls.write(json.dumps({"cwd": os.getcwd(), "argv": sys.argv[1:]}) + "\\n")
if pathlib.Path(__file__).with_name("fail").exists():
    sys.exit("out of memory")
out = pathlib.Path(words["--output_path"]) / "m"
out.mkdir(parents=True)
document = {
    "results": {"gqa": {"exact_match,none": 0.5}},
    "config": {"model": words["--model"], "model_args": words["--model_args"]},
    "lmms_eval_version": "unknown@unknown", "git_hash": "of-some-folder",
}
(out / "d_results.json").write_text(json.dumps(document))
"""


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A named double of the program: it notes how it was called and leaves a results file; `fail` makes it fail."""
    script = tmp_path / "harness" / "lmms_eval_double.py"
    script.parent.mkdir()
    script.write_text(HARNESS)
    monkeypatch.setenv(COMMAND, f"{sys.executable} {script}")
    return script.parent


def calls(harness: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (harness / "calls.jsonl").read_text().splitlines()]


def test_the_harness_is_run_where_it_is_installed(bench: Any, harness: Path, tmp_path: Path) -> None:
    stage = LmmsEval(checkpoint=tmp_path, model_args="conv_template=v1", tasks=("gqa", "pope"), include=tmp_path)
    artifact = bench.run(stage)
    assert artifact.facts["scores"]["gqa"]["score"] == 50.0
    document = json.loads((bench.path(artifact) / "scores.json").read_text())
    given = document["model_args"].split(",")
    assert (given[0], given[-1]) == (f"pretrained={tmp_path}", "conv_template=v1")
    # not what the results file takes for the version: the commit of wherever it was started
    assert document["version"] == "9.9.9" and artifact.facts["engine"] == "lmms-eval 9.9.9"
    (call,) = calls(harness)
    words = call["argv"]
    assert words[words.index("--tasks") + 1] == "gqa,pope" and words[words.index("--include_path") + 1] == str(tmp_path)
    assert "--log_samples" in words and words[words.index("--use_cache") + 1].startswith(call["cwd"])


def test_a_run_that_failed_is_tried_again_with_its_answers_kept(bench: Any, harness: Path, tmp_path: Path) -> None:
    (harness / "fail").touch()
    stage = LmmsEval(model="openai", model_args="model_version=m,base_url=http://127.0.0.1:1/v1", tasks=("gqa",))
    with pytest.raises(StageFailed, match="ended with 1(.|\n)*out of memory"):
        bench.run(stage)
    (harness / "fail").unlink()
    assert bench.run(stage).facts["scores"]["gqa"]["score"] == 50.0
    first, second = calls(harness)
    assert first == second and not any("pretrained" in word for word in first["argv"])


def test_a_harness_that_is_missing_or_fails_is_said_clearly(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(COMMAND, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=f"not installed: .{COMMAND}.*setup --lmms-eval.*finished run"):
        bench.run(LmmsEval(checkpoint=tmp_path))
    monkeypatch.setenv(COMMAND, f"{sys.executable} -c \"import sys; sys.exit('no such task')\"")
    with pytest.raises(StageFailed, match="ended with 1(.|\n)*no such task"):
        bench.run(LmmsEval(checkpoint=tmp_path))
    with pytest.raises(InputError, match="either `results`"):
        bench.run(LmmsEval())
