"""POPE: mean of three F1, joined by split and question, never by row."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets.benchmarks.pope import says
from llavaflow.infra.errors import InputError
from llavaflow.tests.datasets.benchmarks.conftest import SHORT, TRICKY, llava, score

FIRST = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}


def gold(write: Any, rows: int = 4) -> Path:
    for split in FIRST:
        records = [
            {"question_id": n + 1, "image": f"i{n // 2}.jpg", "text": f"Is there a {split} {n}?", "label": "yn"[n % 2]}
            for n in range(rows)
        ]
        for record in records:
            record["label"] = {"y": "yes", "n": "no"}[str(record["label"])]
        write(f"gold/coco_pope_{split}.json", "".join(f"{__import__('json').dumps(row)}\n" for row in records))
    return Path(write("gold/readme.txt", "")).parent


def replies(texts: dict[str, list[str]]) -> list[dict[str, Any]]:
    return llava(
        [
            {"question_id": FIRST[split] + n + 1, "prompt": f"Is there a {split} {n}?{SHORT}", "text": text}
            for split, column in texts.items()
            for n, text in enumerate(column)
        ]
    )


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("Yes", "yes"), ("No", "no"), ("no.", "no"), ("No, but yes", "no"), ("", "yes"), ("There is not one", "no"),
        ("Yes. No", "yes"), ("None", "yes"), ("NO", "yes"), ("no!", "yes"),
    ],
)  # fmt: skip
def test_reading_of_upstream(reply: str, read: str) -> None:
    assert says(reply) == read


def test_score_is_the_mean_of_the_three_f1(write: Any) -> None:
    texts = {"adversarial": ["Yes", "No", "Yes", "No"], "random": ["Yes", "Yes", "Yes", "Yes"]}
    texts["popular"] = ["Yes", "No", "No", "No"]
    result = score("pope", write("a.jsonl", replies(texts)), gold(write))
    splits = result.metrics["splits"]
    assert splits["adversarial"]["f1"] == 1.0
    assert splits["random"]["f1"] == pytest.approx(2 / 3) and splits["random"]["yes_ratio"] == 1.0
    assert splits["popular"]["f1"] == pytest.approx(2 / 3) and splits["popular"]["recall"] == 0.5
    assert result.score == pytest.approx(100 * (1 + 2 / 3 + 2 / 3) / 3)
    assert result.metrics["pooled_f1"] == pytest.approx(100 * 2 * 5 / (2 * 5 + 2 + 1))
    assert result.metrics["rows"] == {"adversarial": 4, "random": 4, "popular": 4}


def test_shuffled_answers_score_the_same(write: Any) -> None:
    rng = random.Random(0)
    rows = replies({split: [rng.choice(("Yes", "No")) for _ in range(4)] for split in FIRST})
    folder = gold(write)
    before = score("pope", write("a.jsonl", rows), folder).as_json()
    rng.shuffle(rows)
    assert score("pope", write("b.jsonl", rows), folder).as_json() == before


def test_other_edition_of_a_split_is_refused(write: Any) -> None:
    """As many answers as rows, but about other questions: upstream would zip them."""
    rows = replies({split: ["Yes"] * 4 for split in FIRST})
    rows[0]["prompt"] = f"Is there a dog in the image?{SHORT}"
    with pytest.raises(InputError, match="unknown id.*another version.*2910 rows .* 3000"):
        score("pope", write("a.jsonl", rows), gold(write))


def test_edition_is_named(write: Any) -> None:
    result = score("pope", write("a.jsonl", replies({split: ["Yes"] * 4 for split in FIRST})), gold(write))
    assert any("neither the edition of 2910 nor that of 3000" in note for note in result.notes)


def test_questions_file_gives_split_and_image_to_bare_ids(write: Any) -> None:
    rows = replies({split: ["Yes"] * 4 for split in FIRST})
    questions = [
        {"question_id": f"q{place}", "image": f"i{place % 4 // 2}.jpg", "text": row["prompt"], "category": split}
        for place, (row, split) in enumerate(zip(rows, [s for s in FIRST for _ in range(4)], strict=True))
    ]
    bare = {row["question_id"]: "Yes" for row in questions}
    path = write("q.jsonl", questions)
    assert score("pope", write("bare.json", bare), gold(write), questions=path).n == 12


def test_tricky_replies_never_stop_the_scorer(write: Any) -> None:
    texts = [TRICKY[place % len(TRICKY)] for place in range(12)]
    rows = replies({split: texts[place * 4 : place * 4 + 4] for place, split in enumerate(FIRST)})
    result = score("pope", write("a.jsonl", rows), gold(write))
    assert 0 <= result.score <= 100 and result.unparsed == 0


def test_questions_that_a_later_edition_spells_better_are_the_same(write: Any) -> None:
    gold = [{"question_id": 1, "image": "a.jpg", "text": "Is there an umbrella in the image?", "label": "yes"}]
    rows = [{"question_id": 1, "prompt": f"Is there an umbrella in the imange?{SHORT}", "text": "Yes"}]
    result = score("pope", write("a.jsonl", rows), write("coco_pope_adversarial.json", gold))
    assert result.score == 100 and not any("another question" in note for note in result.notes)


def test_samples_that_name_no_split_are_joined_by_their_place(write: Any) -> None:
    """A positive question stands in all three splits under one number, so nothing else tells them apart."""
    folder = gold(write)
    questions = [
        (split, n) for split in ("adversarial", "popular", "random") for n in range(4)
    ]  # fmt: skip
    samples = [
        {"doc_id": place, "input": f"Is there a {split} {n}?{SHORT}", "filtered_resps": ("yes", "no")[n % 2],
         "pope_accuracy": {"question_id": str(n + 1), "score": 1.0}}
        for place, (split, n) in enumerate(questions)
    ]  # fmt: skip
    random.Random(0).shuffle(samples)
    assert score("pope", write("a.jsonl", samples), folder).score == 100
