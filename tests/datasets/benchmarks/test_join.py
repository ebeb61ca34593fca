"""What every benchmark refuses or reports: holes, doubles, strangers, files in no known form."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets.benchmarks._answers import read_answers
from llavaflow.datasets.benchmarks._benchmark import Options, benchmark_names, load_benchmark
from llavaflow.infra.errors import InputError
from llavaflow.tests.datasets.benchmarks.conftest import SHORT, llava, score


def gqa(write: Any) -> Path:
    kinds = ("verify", "query", "query")
    return Path(
        write(
            "testdev_balanced_questions.json",
            {
                str(n): {"question": f"Q{n}?", "imageId": f"n{n}", "answer": "red", "types": {"structural": kind}}
                for n, kind in enumerate(kinds)
            },
        )
    )


def rows(texts: list[str]) -> list[dict[str, Any]]:
    return llava([{"question_id": str(n), "prompt": f"Q{n}?{SHORT}", "text": text} for n, text in enumerate(texts)])


def test_hole_is_refused_and_counts_as_wrong_when_allowed(write: Any) -> None:
    answers = write("a.jsonl", rows(["red", "red"]))
    with pytest.raises(InputError, match="1 of 3 questions have no answer.*--allow-missing"):
        score("gqa", answers, gqa(write))
    result = score("gqa", answers, gqa(write), allow_missing=True)
    assert (result.n, result.missing, result.unparsed) == (3, 1, 0)
    assert result.score == pytest.approx(200 / 3)
    assert result.metrics["answered_only"] == 100.0


def test_double_is_refused_with_its_line(write: Any) -> None:
    doubled = rows(["red", "red", "red"])
    doubled.append(doubled[0])
    with pytest.raises(InputError, match=r"repeat a question.*'0' \(record 4\)"):
        score("gqa", write("a.jsonl", doubled), gqa(write))


def test_stranger_is_refused(write: Any) -> None:
    strange = rows(["red"] * 3)
    strange[1] |= {"question_id": "77", "prompt": "Other?"}
    with pytest.raises(InputError, match="unknown id: '77'"):
        score("gqa", write("a.jsonl", strange), gqa(write))


def test_answers_to_another_benchmark_are_refused(write: Any) -> None:
    with pytest.raises(InputError):
        score("gqa", write("a.json", {"x": "red", "y": "blue"}), gqa(write), allow_missing=True)


@pytest.mark.parametrize("form", ["llava", "plain", "records", "upload", "lmms", "lmms-bare", "lmms-old", "gz"])
def test_answer_files_of_every_tool_score_the_same(write: Any, form: str) -> None:
    texts = ["Red.", "blue", "red"]
    documents: dict[str, Any] = {
        "llava": rows(texts),
        "plain": {str(n): text for n, text in enumerate(texts)},
        "records": {str(n): {"response": text, "answer": "gold"} for n, text in enumerate(texts)},
        "upload": [{"questionId": str(n), "prediction": text} for n, text in enumerate(texts)],
        "lmms": [
            {"doc_id": n, "target": "red", "doc": {"id": str(n), "question": f"Q{n}?"}, "filtered_resps": [text]}
            for n, text in enumerate(texts)
        ],
        "lmms-bare": [
            {"doc_id": n, "target": "red", "input": f"Q{n}?{SHORT}", "filtered_resps": text, "exact_match": 1.0}
            for n, text in enumerate(texts)
        ],
        "lmms-old": {"args": {}, "logs": [{"doc_id": n, "resps": [[text]]} for n, text in enumerate(texts)]},
    }
    if form == "gz":
        path = Path(write("a.jsonl.gz", ""))
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows(texts)).encode()))
    else:
        path = Path(write("a.jsonl" if form in ("llava", "lmms", "lmms-bare") else "a.json", documents[form]))
    result = score("gqa", path, gqa(write))
    assert result.score == pytest.approx(200 / 3)
    assert result.metrics["binary"] == 100 and result.metrics["open"] == 50


def test_gold_may_be_gzipped_or_a_folder(write: Any) -> None:
    gold = gqa(write)
    packed = gold.with_name("gz") / f"{gold.name}.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(gold.read_bytes()))
    answers = write("a/a.jsonl", rows(["red"] * 3))
    assert {score("gqa", answers, place).score for place in (gold, gold.parent, packed, packed.parent)} == {100.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question_id": 1, "text": "a"}\n{broken', "line 2 is not JSON"),
        ("", "no answers"),
        ('[{"question_id": 1}]', "record 1 has no reply"),
        ('{"question_id": 1}\n\x00\x01', "line 2 is not JSON"),
        ("[1, 2]", "record 1 is not an object"),
        ('"text"', "neither records nor"),
        ('{"question_id": 1, "text": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1 is not JSON .nested too deeply"),
    ],
)
def test_unreadable_answers_are_named(write: Any, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_answers(write("a.jsonl", content))


def test_damaged_bytes_are_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b'{"question_id": 1, "text": "a"}\n' * 50, mtime=0))
    packed[20:40] = bytes(20)
    for name, data in (("a.jsonl.gz", bytes(packed)), ("existence.txt", b"\xff\xfe\t\t\t")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            read_answers(tmp_path / name)


def test_lines_that_end_in_commas_are_read(write: Any) -> None:
    answers = read_answers(
        write("a.json", '{"question_id": "1", "prediction": "A"},\n{"question_id": "2", "text": "B"},\n')
    )
    assert [(answer.id, answer.text) for answer in answers] == [("1", "A"), ("2", "B")]


def test_answers_without_any_identity_join_by_order_and_say_so(write: Any) -> None:
    bare = [{"question_id": -1, "text": "red"}] * 3
    result = score("gqa", write("a.jsonl", bare), gqa(write))
    assert result.n == 3 and "joined by line order" in result.notes[0]
    with pytest.raises(InputError, match="no id and no prompt"):
        score("gqa", write("b.jsonl", bare[:2]), gqa(write))


def test_every_benchmark_is_whole() -> None:
    wanted = (
        "vqav2 gqa vizwiz scienceqa textvqa pope mme mmbench mmbench-cn seed llava-bench-coco llava-bench-wild mmvet "
        "mmmu mathvista refcoco refcoco-plus refcocog docvqa realworldqa chartqa ai2d aokvqa okvqa"
    )
    assert set(benchmark_names()) == set(wanted.split())
    for name in benchmark_names():
        benchmark = load_benchmark(name)
        assert benchmark.name == name
        assert all((benchmark.title, benchmark.layout, benchmark.prompt, benchmark.rule, benchmark.source))
        assert bool(benchmark.upload) == bool(benchmark.upload_form)


def test_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean refcocog"):
        load_benchmark("refcocogg")


def test_missing_gold_says_where_it_looked(write: Any, tmp_path: Path) -> None:
    answers = write("a.jsonl", rows(["red"]))
    with pytest.raises(InputError, match="no such file"):
        score("gqa", answers, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="looked for testdev_balanced_questions.json"):
        score("gqa", answers, tmp_path / "empty")


def test_twins_are_taken_in_turn_and_other_shared_names_are_not(write: Any) -> None:
    """The same question about the same image twice is one question; two questions about one image are not."""
    question = {"question": "Q?", "imageId": "n", "answer": "red", "types": {}}
    gold = write(
        "twins_questions.json",
        {"a": question, "b": {**question, "answer": "blue"}, "c": {**question, "question": "R?"}},
    )
    said = [
        {"question_id": "n", "prompt": f"{q}?{SHORT}", "text": t}
        for q, t in (("Q", "red"), ("Q", "blue"), ("R", "red"))
    ]
    assert score("gqa", write("a.jsonl", llava(said)), gold).score == 100.0
    with pytest.raises(InputError, match="unknown id"):
        score(
            "gqa",
            write("b.jsonl", llava([{"question_id": "n", "text": "red"}, {"question_id": "m", "text": "red"}])),
            gold,
        )


@pytest.mark.parametrize("first", [0, 1])
def test_ids_that_count_are_places_in_the_gold(write: Any, first: int) -> None:
    gold = write("g_questions.json", {k: {"question": k, "answer": k, "types": {}} for k in ("x", "y", "z")})
    result = score("gqa", write("a.json", {str(first + n): text for n, text in ((2, "z"), (0, "x"), (1, "q"))}), gold)
    assert result.score == pytest.approx(200 / 3) and "places in the gold" in result.notes[0]


def test_ids_that_count_are_no_places_where_other_questions_were_asked(write: Any) -> None:
    questions = {k: {"question": f"Is it {k}?", "answer": k, "types": {}} for k in ("x", "y", "z")}
    gold = write("g_questions.json", questions)
    rows = [{"question_id": n, "prompt": f"Where is {n}?", "text": "x"} for n in range(3)]
    with pytest.raises(InputError, match="3 answers have an unknown id"):
        score("gqa", write("a.jsonl", llava(rows)), gold)


def test_questions_file_in_vqa_form_gives_the_prompts(write: Any) -> None:
    questions = {"questions": [{"question_id": 5 + n, "image_id": f"n{n}", "question": f"Q{n}?"} for n in range(3)]}
    result = score(
        "gqa", write("a.json", {str(5 + n): "red" for n in range(3)}), gqa(write), questions=write("q.json", questions)
    )
    assert result.score == 100.0


@pytest.mark.parametrize("document", [None, 3, {"questions": None}, {"questions": "Q0?"}])
def test_a_questions_file_without_questions_is_refused(write: Any, document: Any) -> None:
    with pytest.raises(InputError, match="is not a list of questions"):
        score("gqa", write("a.jsonl", rows(["red"] * 3)), gqa(write), questions=write("q.json", document))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("mmmu", {"id": "validation_Art_1", "answer": "A", "options": "['cat', "}),
        ("mmmu", {"id": "validation_Art_1", "answer": "[1", "question_type": "open"}),
        ("mmbench", {"index": "1e400", "answer": "A"}),
    ],
)
def test_broken_gold_is_refused_in_words(write: Any, name: str, row: Any) -> None:
    with pytest.raises(InputError):
        score(name, write("a.json", {"validation_Art_1": "A", "1": "A"}), write("gold.jsonl", [row]))


def test_answers_to_another_split_with_the_same_ids_are_told(write: Any) -> None:
    """VizWiz counts the questions of every split from 0, so the ids alone do not show it."""
    gold = [{"image": f"{n}.jpg", "question": f"What is {n}?", "answers": [{"answer": "x"}] * 10} for n in range(3)]
    said = [{"question_id": n, "prompt": f"What is {n}?{SHORT}", "text": "x"} for n in range(3)]
    path = write("val.json", gold)
    assert score("vizwiz", write("a.jsonl", said), path).notes == ()
    said[1]["prompt"] = f"Which bus?{SHORT}"
    (note,) = score("vizwiz", write("b.jsonl", said), path).notes
    assert "1 answers were given to another question" in note and "'1' asks 'Which bus?" in note


def test_doc_id_is_a_place_and_never_an_id(write: Any) -> None:
    """lmms-eval counts documents from 0: its 1 is the second question, whatever question has the id 1."""
    gold = write("gold.json", {f"{2 - n}": {"question": f"Q{n}?", "imageId": "i", "answer": f"a{n}"} for n in range(3)})
    samples = [{"doc_id": n, "input": f"Q{n}?{SHORT}", "filtered_resps": f"a{n}"} for n in (2, 0, 1)]
    result = score("gqa", write("a.jsonl", samples), gold)
    assert result.score == 100 and "3 answers have no id of their own" in result.notes[0]
    samples[0]["input"] = f"Other?{SHORT}"
    with pytest.raises(InputError, match="unknown id: 'Other"):
        score("gqa", write("b.jsonl", samples), gold)


def test_ids_are_found_in_the_values_of_metrics(write: Any) -> None:
    """Newer lmms-eval leaves the document out of its samples; what its metric kept of it must do."""
    rows = [
        {"index": index, "question": "Q?", "A": "x", "B": "y", "answer": letter}
        for index, letter in ((7, "A"), (8, "B"))
    ]
    samples = [
        {"doc_id": n, "input": "Q? A. x B. y", "filtered_resps": letter, "gpt_eval_score": {"index": index}}
        for n, (index, letter) in enumerate(((8, "B"), (7, "A")))
    ]
    assert score("mmbench", write("a.jsonl", samples), write("gold.jsonl", rows)).score == 100


def test_what_python_writes_and_strict_readers_refuse_is_read(write: Any) -> None:
    """lmms-eval logs NaN; a reply cut in the middle of an emoji leaves half a pair of surrogates."""
    lines = '{"question_id": "1", "text": "ok \\ud83d", "score": NaN}\n{"question_id": "2", "text": "B"}\n'
    for name, content in (("a.jsonl", lines), ("b.json", '{"1": "ok \\ud83d", "2": "B"}')):
        answers = read_answers(write(name, content))
        assert [(answer.id, answer.text) for answer in answers] == [("1", "ok \ufffd"), ("2", "B")]


@pytest.mark.parametrize(("name", "text"), [("refcoco", "short"), ("refcoco-plus", "plus"), ("refcocog", "long")])
def test_refcoco_and_its_sisters_may_lie_in_one_folder(write: Any, name: str, text: str) -> None:
    files = {"REC_refcoco_unc_val": "short", "refcoco+_val": "plus", "refcocog_test": "long"}
    for file, expression in files.items():
        row = {"expression": expression, "bbox": [0, 0, 10, 10], "width": 20, "height": 20}
        gold = write(f"gold/{file}.jsonl", [row]).parent
    assert [item.text for item in load_benchmark(name).items(gold, Options())] == [text]


def test_gold_is_found_where_the_guides_of_others_put_it(write: Any) -> None:
    """Both MMBenches lie in one folder in LLaVA's guide, POPE publishes four tests, MME has a folder around it."""
    for file, question in (("mmbench_dev_20230712", "Which?"), ("mmbench_dev_cn_20231003", "哪个?")):
        write(f"mmbench/{file}.tsv", f"index\tquestion\tA\tB\tanswer\n1\t{question}\tx\ty\tA\n")
    for folder, image in (("coco", "c.jpg"), ("gqa", "g.jpg")):
        row = {"question_id": 1, "image": image, "text": "Is it?", "label": "yes"}
        write(f"pope/{folder}/{folder}_pope_random.json", json.dumps(row))
    line = "Is it? Please answer yes or no.\tYes\n"
    root = write("mme/MME_Benchmark_release_version/existence/1.txt", line).parents[3]

    def asked(name: str, folder: str) -> list[str]:
        return [f"{item.text} {item.image}" for item in load_benchmark(name).items(root / folder, Options())]

    assert asked("mmbench", "mmbench") == ["Which? 1"] and asked("mmbench-cn", "mmbench") == ["哪个? 1"]
    assert asked("pope", "pope") == ["Is it? c.jpg"] and asked("mme", "mme") == ["Is it? existence/1"]
