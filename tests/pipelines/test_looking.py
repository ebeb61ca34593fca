"""The commands that look into a store: show, diff, lineage, trace. On the small store of the trace tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext, folder_context
from llavaflow.pipelines._cli.main import main
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._stage import Stage
from llavaflow.tests.pipelines.conftest import Command
from llavaflow.tests.stages.test_trace import FINETUNE, STAGES, TABLE, URL, Fit, Lines


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("store")
    made: dict[Stage, Artifact] = {}
    for name, stage in STAGES.items():
        made[stage] = stage.run(replace(folder_context(root, stage, made), recipe="toy", stage=name))
    return {name: made[stage] for name, stage in STAGES.items()}


@pytest.fixture
def ask(built: dict[str, Artifact], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command on the store; the JSON document, or the text, and the exit code."""
    root = Path(built["table"].uri).parents[1]
    monkeypatch.setenv("LLAVAFLOW_STORE", str(root))

    def run(*args: str) -> Any:
        code = main(args)
        out, err = capsys.readouterr()
        return (json.loads(out) if "--json" in args and out else out), code, err

    return run


def test_show_prints_what_an_artifact_is_made_of(ask: Any, built: dict[str, Artifact]) -> None:
    document, code, _ = ask("show", "toy/download", "--json", "--verify")
    assert code == 0 and document["ref"] == built["download"].ref
    assert document["facts"] == {"samples": 3}
    assert document["damaged"] == [] and document["dangling"] == []
    assert document["inputs"]["source"]["fingerprint"] == built["table"].fingerprint
    text, code, _ = ask("show", "toy/download")
    assert code == 0 and "data.jsonl" in text and "settings" in text


def test_verify_finds_damage_and_parents_that_are_nowhere(ask: Any, tmp_path: Path) -> None:
    table = TABLE.run(folder_context(tmp_path, TABLE))
    stray = Lines(source=TABLE, uses=(("d0", ("row/0", "row/9")),))
    built = stray.run(folder_context(tmp_path, stray, {TABLE: table}))
    _, code, err = ask("show", built.ref, "--verify", "--store", str(tmp_path))
    assert code == 1 and f"1 parents of its records are in no index, such as {table.fingerprint}:row/9" in err
    (Path(table.uri) / "picture.png").write_bytes(b"gnp")
    document, code, _ = ask("show", table.ref, "--verify", "--json", "--store", str(tmp_path))
    assert code == 1 and document["damaged"] == ["picture.png"]


def test_a_reference_may_be_a_few_digits_or_a_place(ask: Any, built: dict[str, Artifact]) -> None:
    artifact = built["finetune"]
    for ref in (f"checkpoint:{artifact.fingerprint[:6]}", artifact.uri):
        assert ask("show", ref, "--json")[0]["fingerprint"] == artifact.fingerprint


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("toy/downlaod", "Did you mean download"),
        ("toys/download", "Did you mean toy"),
        ("checkpoint:zz", "no checkpoint starts with 'zz'"),
        ("checkpoint:", "lacks a fingerprint"),
        ("chekpoint:1", "Did you mean checkpoint"),
        ("/nowhere", "as a reference to an artifact"),
        ("source:coc", "Did you mean"),
        ("benchmark:pop", "Did you mean pope"),
        ("no-such-recipe", "unknown recipe"),
    ],
)
def test_a_wrong_reference_gets_one_line_and_exit_code_2(ask: Any, ref: str, says: str) -> None:
    _, code, err = ask("show", ref)
    assert code == 2 and says in err and err.count("\n") == 1


def test_show_prints_the_layout_of_sources_and_benchmarks(ask: Any) -> None:
    document, code, _ = ask("show", "benchmark:pope", "--json")
    assert code == 0 and document["layout"] and document["rule"]
    text, code, _ = ask("show", "benchmark:pope")
    assert code == 0 and document["layout"].strip().splitlines()[0] in text


def test_show_prints_a_mixture_and_what_stands_in_for_its_withheld_parts(ask: Any) -> None:
    document, code, _ = ask("show", "mixture:llava16-mix", "--json")
    withheld = [part for part in document["parts"] if part["unpublished"]]
    assert code == 0 and len(withheld) == 7 and all(part["substitute"] for part in withheld)
    text, code, _ = ask("show", "mixture:llava16-mix")
    assert code == 0 and "instruct-azure-dc-zh, 92,000 records: LLaVA-NeXT-Data" in text
    listed = ask("list", "mixtures", "--json")[0]["mixtures"]
    assert [row["name"] for row in listed] == ["mix665k", "llava16-mix"]
    assert ask("show", "mixture:0123")[1] == 2, "any other name is a fingerprint"


def test_lineage_goes_up_and_down(ask: Any, built: dict[str, Artifact]) -> None:
    both = ask("lineage", "toy/mix", "--json")[0]
    up, down = ask("lineage", "toy/mix", "--up", "--json")[0], ask("lineage", "toy/mix", "--down", "--json")[0]
    assert {node["stage"] for node in up["nodes"]} == {"table", "download", "caption", "mix"}
    assert {node["stage"] for node in down["nodes"]} == {"mix", "finetune", "evaluate"}
    assert {node["ref"] for node in both["nodes"]} == {node["ref"] for node in up["nodes"] + down["nodes"]}
    edge = {"source": built["mix"].ref, "target": built["finetune"].ref, "field": "data"}
    assert edge in down["edges"] and edge not in up["edges"]
    text, code, _ = ask("lineage", "toy/evaluate")
    assert code == 0 and text.count("toy/mix") == 1 and "toy/foundation" in text


def test_lineage_speaks_openlineage(ask: Any, built: dict[str, Artifact]) -> None:
    text, code, _ = ask("lineage", "toy/mix", "--up", "--openlineage")
    events = [json.loads(line) for line in text.splitlines()]
    assert code == 0 and [event["eventType"] for event in events] == ["START", "COMPLETE"] * 4
    last = events[-1]
    assert last["job"] == {"namespace": "toy", "name": "mix"} and last["run"] == events[-2]["run"]
    assert [item["name"] for item in last["inputs"]] == [built["caption"].ref.replace(":", "/")]
    assert last["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 3


def test_trace_follows_a_url_to_the_scores(ask: Any, built: dict[str, Artifact]) -> None:
    document, code, _ = ask("trace", "--url", URL.format(1), "--json")
    assert code == 0
    assert [row["id"] for row in document["children"]] == ["c1", "m0"]
    assert [item["stage"] for item in document["fed"]] == ["finetune", "evaluate"]
    text, code, _ = ask("trace", "--url", URL.format(1))
    assert code == 0 and built["evaluate"].ref in text and "as recorded" in text


def test_trace_follows_scores_to_the_urls(ask: Any) -> None:
    document, code, _ = ask("trace", "--artifact", "toy/evaluate", "--json")
    assert code == 0 and document["urls"] == [URL.format(0), URL.format(1)]


def test_trace_takes_a_sample_as_indexes_name_it(ask: Any, built: dict[str, Artifact]) -> None:
    for args in (["--sample", f"{built['mix'].fingerprint}:m0"], ["--sample", "m0", "--artifact", "toy/mix"]):
        document, code, _ = ask("trace", *args, "--json")
        assert code == 0 and len(document["parents"]) == 6
        assert all(row["verified"] for row in document["parents"])


def test_trace_of_what_nobody_knows_says_where_it_looked(ask: Any) -> None:
    _, code, err = ask("trace", "--url", "http://nowhere.test/")
    assert code == 2 and "indexes of 5 artifacts" in err and "toy/mix" in err
    assert ask("trace")[1] == 2
    assert ask("trace", "--url", "x", "--image", "y")[1] == 2


def test_diff_names_settings_inputs_and_facts(ask: Any, built: dict[str, Artifact]) -> None:
    root = Path(built["table"].uri).parents[1]
    source = STAGES["download"]
    assert isinstance(STAGES["caption"], Lines)
    other = replace(STAGES["caption"], dropped=())
    ctx = folder_context(root, other, {source: built["download"]})
    changed = other.run(replace(ctx, recipe="other", stage="caption"))
    rows = ask("diff", "toy/caption", "other/caption", "--json")[0]["differences"]
    assert {row["path"]: (row["a"], row["b"]) for row in rows} == {
        "settings.dropped": ("absent", []),
        "settings.dropped[0]": ("c3", "absent"),
        "facts.samples": (2, 3),
    }
    assert changed.ref in ask("diff", "toy/caption", changed.ref)[0]
    assert "no difference" in ask("diff", "toy/caption", built["caption"].ref)[0]


@dataclass(frozen=True, kw_only=True)
class Exam(Stage):
    """Scores with the answer file that evaluate writes."""

    kind: ClassVar[Kind] = "scores"
    marks: tuple[int, ...]

    def run(self, ctx: RunContext) -> Artifact:
        rows = [
            {"question_id": str(number), "prompt": "q", "text": f"said {mark}", "metadata": {"mark": float(mark)}}
            for number, mark in enumerate(self.marks)
        ]
        (ctx.out / "answers").mkdir()
        (ctx.out / "answers" / "pope.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return ctx.finish({"score": sum(self.marks)})


def test_diff_of_two_evaluations_lists_the_flips_and_the_interval(ask: Any, tmp_path: Path) -> None:
    exams = (Exam(marks=(0, 0, 1, 1) * 10), Exam(marks=(1, 0, 1, 1) * 10))
    refs = [exam.run(folder_context(tmp_path, exam)).ref for exam in exams]
    document, code, _ = ask("diff", *refs, "--json", "--store", str(tmp_path))
    [found] = document["benchmarks"]
    assert code == 0 and found["difference"] == 25.0 and not found["noise"]
    assert 0 < found["low"] < 25 < found["high"]
    assert [flip["question_id"] for flip in found["flips"]] == [str(number) for number in range(0, 40, 4)]
    text, code, _ = ask("diff", *refs, "--store", str(tmp_path))
    assert code == 0 and "10 answers flipped: 10 gained, 0 lost" in text and "more than noise" in text


def test_diff_of_two_recipes_names_the_sources_of_numbers(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = {
        name: Recipe(name=name, stages={"exam": Exam(marks=(mark,))}, sources={"exam.marks[0]": f"card of {name}"})
        for name, mark in (("one", 1), ("two", 2))
    }
    monkeypatch.setattr("llavaflow.pipelines._catalogue.find_recipe", recipes.__getitem__)
    rows = ask("diff", "one", "two", "--json")[0]["differences"]
    row = {"path": "exam.marks[0]", "a": 1, "b": 2, "source_a": "card of one", "source_b": "card of two"}
    assert rows == [row]
    assert "card of one; card of two" in ask("diff", "one", "two")[0]
    assert ask("diff", "one", "toy/mix")[1] == 2


def test_a_recipe_file_of_ones_own_is_compared_and_shown(ask: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from llavaflow.pipelines import llava15\n"
        "RECIPE = llava15.RECIPE.replace({'finetune': {'learning_rate': 1e-5}}, name='mine')\n"
    )
    row = ask("diff", "llava15", str(file), "--json")[0]["differences"][0]
    assert (row["path"], row["a"], row["b"], row["source_b"]) == ("finetune.learning_rate", 2e-5, 1e-5, None)
    assert ask("show", str(file), "--json")[0]["settings"]["finetune.learning_rate"] == 1e-5


def test_show_prints_a_recipe_and_a_row_of_the_zoo(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exam = Exam(marks=(1,))
    recipe = Recipe(name="one", stages={"exam": exam, "again": Fit(data=exam)}, sources={"exam.marks[0]": "the card"})
    monkeypatch.setattr("llavaflow.pipelines._catalogue.find_recipe", {"one": recipe}.__getitem__)
    document = ask("show", "one", "--json")[0]
    assert document["stages"][1]["inputs"] == ["exam"]
    assert document["settings"] == {
        "exam.type": "Exam",
        "exam.marks[0]": 1,
        "again.type": "Fit",
        "again.base": None,
        "again.data": "<exam>",
    }
    assert "the card" in ask("show", "one")[0]
    text, code, _ = ask("show", "zoo:llava-v1.5-13b")
    assert code == 0 and "85.9" in text and "mean F1" in text


def test_a_deleted_input_keeps_its_place_in_the_lineage(tmp_path: Path, ask: Any) -> None:
    import shutil

    made: dict[Stage, Artifact] = {}
    for stage in STAGES.values():
        made[stage] = stage.run(replace(folder_context(tmp_path, stage, made), recipe="toy", stage=stage.type_name()))
    shutil.rmtree(made[STAGES["mix"]].uri)
    ref = made[FINETUNE].ref
    document, code, _ = ask("lineage", ref, "--up", "--json", "--store", str(tmp_path))
    gone = [node for node in document["nodes"] if not node["present"]]
    assert code == 0 and [node["ref"] for node in gone] == [made[STAGES["mix"]].ref]


def test_a_stage_that_only_one_recipe_has_is_one_line(pipeline: Command) -> None:
    told = pipeline("diff", "llava15", "llava16-vicuna-7b")
    assert "download.retries" not in told.out and "finetune.max_length" in told.out
    assert [line.split()[1:] for line in told.out.splitlines() if line.startswith("download ")] == [
        ["a", "stage", "absent"]
    ]
    listed = pipeline("diff", "llava15", "llava16-vicuna-7b", "--json").json["differences"]
    assert "download.retries" in {row["path"] for row in listed}
