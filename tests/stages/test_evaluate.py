"""Evaluate on a real world with a real, untrained checkpoint: the ways of the answers are tested, not their worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets._index import read_index, read_row, sha256_bytes
from llavaflow.datasets.benchmarks._benchmark import Answer, Item, Options, load_benchmark
from llavaflow.infra.artifact import Artifact
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.infra.store import open_store
from llavaflow.stages._answerer import open_image
from llavaflow.stages._compare import compare, paired_interval
from llavaflow.stages._exam import Ledger, questions
from llavaflow.stages._judging import Judging
from llavaflow.stages._local_judge import NAME, TITLE
from llavaflow.stages._prior import best_constant
from llavaflow.stages.evaluate import Evaluate
from llavaflow.stages.world import World
from llavaflow.tests.stages.conftest import Bench

WORLD = World(
    coco_images=8, gqa_images=4, vg_images=4, ocrvqa_books=4, textcaps_images=4, sharegpt_chats=4, urls=160,
    exam_questions=12, open_images=2,
)  # fmt: skip


def given_model(bench: Bench, foundation: Path) -> Any:
    """A checkpoint that can answer, with random weights where LLaVA would have learned something."""
    from llavaflow.models.llava import Design, build, save

    made = build(str(foundation / "clip"), str(foundation / "language"), Design(image_aspect="pad"))
    return bench.given("model", lambda root: save(made, root / "model"))


@pytest.fixture
def untrained(bench: Bench, toy_foundation: Path) -> Any:
    return given_model(bench, toy_foundation)


def evaluated(bench: Any, model: Any, **changes: Any) -> Artifact:
    bench.run(WORLD)
    found: Artifact = bench.run(Evaluate(model=model, questions=WORLD, max_new_tokens=4, **changes))
    return found


@pytest.fixture(scope="module")
def whole(toy_foundation: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Artifact]:
    """All five types in all variants, and the open questions in two runs of the judge."""
    bench = Bench(store=open_store(tmp_path_factory.mktemp("store")))
    model = given_model(bench, toy_foundation)
    return bench, evaluated(bench, model, review=Judging(runs=2), max_open_tokens=6)


def test_every_question_is_answered_in_every_variant_and_leads_back_to_its_record(whole: Any) -> None:
    bench, artifact = whole
    root, world = bench.path(artifact), bench.path(WORLD)
    assert artifact.facts["samples"] == 60 + 6
    assert set(artifact.facts["types"]) == {"existence", "colour", "count", "text", "grounding"}
    for row in artifact.facts["types"].values():
        assert {"images", "blank", "shuffled", "prior", "n", "margin"} <= set(row)
        assert row["prior"] > 0
    index = read_index(root).to_pylist()
    assert len(index) == 3 * 60 + 6
    known = {row["id"]: row for row in read_index(world).to_pylist()}
    for row in index:
        assert sha256_bytes(read_row(root, row["file"], row["row"])) == row["sha256"]
        parents = [known[parent.partition(":")[2]] for parent in row["parents"]]
        assert [parent["file"].split("/")[1] for parent in parents] == [row["source"], "images"]
        answer = json.loads(read_row(root, row["file"], row["row"]))
        assert json.loads(read_row(world, parents[0]["file"], parents[0]["row"]))["text"] == answer["prompt"]
    page = (root / "report.html").read_text()
    assert page.count('class="card') > 10 and (root / "pictures" / "bars.png").stat().st_size > 1000
    shown = {part.split('"')[0] for part in page.split('src="')[1:]}
    assert all((root / name).is_file() for name in shown)


def test_open_questions_are_judged_apart_and_say_by_whom(whole: Any) -> None:
    bench, artifact = whole
    root, facts = bench.path(artifact), artifact.facts
    assert "llava-bench-coco" not in json.dumps(facts["types"])
    judged = facts["judged"]["llava-bench-coco"]
    assert (judged["judge"], judged["n"], judged["failed"], judged["runs"]) == (NAME, 6, 0, 2)
    assert 0 < judged["score"] <= 100 and {"conv", "detail", "complex", "date"} <= set(judged)
    scores = json.loads((root / "scores.json").read_text())
    assert scores["judge"]["title"] == TITLE and set(scores["results"]["llava-bench-coco"]) == {"images"}
    assert len(list((root / "reviews").iterdir())) == 2
    page, text = (root / "report.html").read_text(), (root / "report.md").read_text()
    assert TITLE in page and TITLE in text and "| llava-bench-coco |" in text
    answers = [json.loads(line) for line in (root / "answers/llava-bench-coco.jsonl").read_text().splitlines()]
    assert len(answers) == 6 and all(0 < row["metadata"]["mark"] <= 1 for row in answers)
    assert len([row for row in read_index(root).to_pylist() if row["source"] == "llava-bench-coco"]) == 6


def test_killed_evaluation_asks_only_what_is_left(bench: Any, untrained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(WORLD)
    stage = Evaluate(model=untrained, questions=WORLD, max_new_tokens=4, benchmarks=("gqa", "refcoco"))
    ctx = bench.context(stage)
    answered: list[str] = []
    add = Ledger.add

    def dies(ledger: Ledger, key: str, text: str) -> None:
        if len(answered) == 25:
            raise KeyboardInterrupt
        answered.append(key)
        add(ledger, key, text)

    monkeypatch.setattr(Ledger, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        stage.run(ctx)
    kept = (ctx.work / "answers.jsonl").read_text().splitlines()
    (ctx.work / "answers.jsonl").write_text("\n".join(kept) + '\n["cut/by a ki')

    def lives(ledger: Ledger, key: str, text: str) -> None:
        answered.append(key)
        add(ledger, key, text)

    monkeypatch.setattr(Ledger, "add", lives)
    whole = bench.run(stage)
    assert len(kept) == 25
    assert len(answered) == len(set(answered)) == 72
    assert whole.facts["samples"] == 24


def test_gate_names_the_numbers(bench: Any, untrained: Any) -> None:
    with pytest.raises(StageFailed, match=r"of 25 points.*colour .* prior"):
        evaluated(bench, untrained, min_margin=25, benchmarks=("gqa",))


def test_unknown_benchmark_folder_says_which_exist(bench: Any, untrained: Any) -> None:
    with pytest.raises(StageFailed, match="no questions for mme.*gqa, images, llava-bench-coco, pope"):
        evaluated(bench, untrained, benchmarks=("mme",))


def test_shuffled_shows_another_picture_and_blank_the_same_size(bench: Any) -> None:
    world = bench.path(bench.run(WORLD))
    asked = questions(world, "gqa", ("images", "blank", "shuffled"), seed=0, max_new_tokens=8)
    assert all(question.shown != question.image for question in asked if question.variant == "shuffled")
    assert len({question.shown for question in asked if question.variant == "shuffled"}) == 12
    picture = world / "eval/images" / asked[0].image
    blank = open_image(picture, "blank")
    assert blank.size == open_image(picture, "images").size
    assert blank.getcolors() == [(blank.width * blank.height, (127, 127, 127))]


def test_prior_is_the_best_constant_by_the_rule() -> None:
    golds = ["red"] * 5 + ["blue"] * 3
    items = [Item(id=str(number), gold=gold, names=(str(number),)) for number, gold in enumerate(golds)]
    prior = best_constant(load_benchmark("gqa"), items)
    assert (prior.answer, prior.score) == ("red", 62.5)


def test_prior_of_boxes_is_a_box() -> None:
    meta = {"width": 100.0, "height": 50.0}
    boxes = [(10.0, 10.0, 50.0, 40.0)] * 3 + [(60.0, 0.0, 90.0, 20.0)]
    items = [Item(id=str(number), gold=box, names=(str(number),), meta=meta) for number, box in enumerate(boxes)]
    prior = best_constant(load_benchmark("refcoco"), items)
    assert (prior.answer, prior.score) == ("[0.1, 0.2, 0.5, 0.8]", 75.0)


def test_interval_of_equal_evaluations_is_zero_and_of_a_clear_gain_is_not() -> None:
    assert paired_interval([0.0, 1.0] * 50, [0.0, 1.0] * 50) == (0.0, 0.0)
    low, high = paired_interval([0.0] * 100, [1.0] * 40 + [0.0] * 60)
    assert 28 < low < 40 < high < 52


def test_comparison_lists_the_questions_that_flipped(tmp_path: Path) -> None:
    for name, marks in (("a", [1, 1, 0, 0]), ("b", [1, 0, 1, 1])):
        (tmp_path / name / "answers").mkdir(parents=True)
        rows = [
            {"question_id": place, "prompt": f"q{place}", "text": f"{name}{place}", "metadata": {"mark": mark}}
            for place, mark in enumerate(marks)
        ]
        # another order of the same questions is the same evaluation
        rows = rows if name == "a" else rows[::-1]
        (tmp_path / name / "answers" / "gqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = compare(tmp_path / "a", tmp_path / "b")
    assert (found.benchmark, found.n, found.difference, found.noise) == ("gqa", 4, 25.0, True)
    assert {(flip.question_id, flip.gained) for flip in found.flips} == {("1", False), ("2", True), ("3", True)}


def test_comparison_tells_questions_of_one_id_and_prompt_apart_by_their_pictures(tmp_path: Path) -> None:
    """ChartQA's published ids are -1 throughout, and "how many bars?" is asked of many charts."""
    for name, marks in (("a", (1, 0, 0)), ("b", (0, 0, 1))):
        (tmp_path / name / "answers").mkdir(parents=True)
        rows = [
            {"question_id": -1, "prompt": "How many?", "text": "x", "metadata": {"mark": mark, "image": image}}
            for mark, image in zip(marks, ("1.png", "2.png", "2.png"), strict=True)
        ]
        (tmp_path / name / "answers" / "chartqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = compare(tmp_path / "a", tmp_path / "b")
    assert (found.n, found.difference) == (3, 0.0)
    assert sorted(flip.gained for flip in found.flips) == [False, True]


def test_comparison_without_common_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no benchmark in common"):
        compare(tmp_path, tmp_path)


def test_llava_ids_that_repeat_still_join(bench: Any) -> None:
    """TextVQA's question_id is the image's: the question of the prompt tells two of one image apart."""
    world = bench.path(bench.run(WORLD))
    benchmark = load_benchmark("textvqa")
    asked = questions(world, "textvqa", ("images",), seed=0, max_new_tokens=8)
    answers = [Answer(id=q.id, text="x", line=q.row, prompt=q.text, image=q.image) for q in asked]
    assert benchmark.score(answers[::-1], world / "eval/textvqa", Options()).n == 12


def test_a_question_in_words_alone_is_answered_without_a_picture(toy_foundation: Path, tmp_path: Path) -> None:
    from llavaflow.models.llava import Design, build, save
    from llavaflow.stages._answerer import Checkpoint, make_worker

    save(build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design()), tmp_path)
    answer = make_worker(checkpoint=Checkpoint(path=tmp_path), template="", images=tmp_path / "none", threads=1)
    row = {"text": "Which colour?", "shown": None, "variant": "images", "max_new_tokens": 3}
    assert len(answer([row])) == 1
