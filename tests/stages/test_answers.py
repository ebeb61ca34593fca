"""What teachers write: the tolerated sloppiness parses, everything else is refused under its name."""

from __future__ import annotations

import pytest

from llavaflow.stages._answers import REASONS, Unusable, parse_description, parse_dialogue, parse_reasoning
from llavaflow.stages._tasks import prompts

PLAIN = "Question:\nWhat is it?\n===\nAnswer:\nA dog."


@pytest.mark.parametrize(
    "text,pairs",
    [
        (PLAIN, [("What is it?", "A dog.")]),
        (PLAIN + "\n===\n", [("What is it?", "A dog.")]),
        ("\n\n" + PLAIN + "\n\n===\n\n===\n", [("What is it?", "A dog.")]),
        ("Question: What is it?\n====\nAnswer: A dog.", [("What is it?", "A dog.")]),
        ("**Question:**\nWhat is it?\n===\n**Answer:** A dog.", [("What is it?", "A dog.")]),
        ("question:\r\nWhat?\r\n===\r\nanswer:\r\nIt.", [("What?", "It.")]),
        (
            "Question:\nWhy?\n===\nAnswer:\nTwo reasons:\n\n1. One.\n2. Two.\n\nSo it is.",
            [("Why?", "Two reasons:\n\n1. One.\n2. Two.\n\nSo it is.")],
        ),
        (
            PLAIN + "\n===\nQuestion:\nAnd this?\n===\nAnswer:\nA cat.",
            [("What is it?", "A dog."), ("And this?", "A cat.")],
        ),
    ],
)
def test_dialogues_as_models_write_them(text: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_dialogue(text) == pairs


@pytest.mark.parametrize(
    "text,reason",
    [
        ("", "empty-answer"),
        ("\n===\n", "empty-answer"),
        ("A dog is here.", "unlabelled-block"),
        ("Question:\nWhat?\n===\nA dog.", "unlabelled-block"),
        ("Question:\nWhat?", "odd-turns"),
        (PLAIN + "\n===\nQuestion:\nAnd?", "odd-turns"),
        ("Answer:\nA dog.\n===\nQuestion:\nWhat?", "odd-turns"),
        ("Question:\nWhat?\n===\nAnswer:\n", "empty-answer"),
        ("Question:\nWhat is <image>?\n===\nAnswer:\nA dog.", "image-token"),
        ("Question:\nWhere?\n===\nAnswer:\nAt [0.12, 0.5, 0.3, 0.9].", "mentions-boxes"),
    ],
)
def test_what_does_not_pair_up_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(Unusable) as refusal:
        parse_dialogue(text)
    assert refusal.value.reason == reason and reason in REASONS


def test_reasoning_is_one_question() -> None:
    assert parse_reasoning(PLAIN) == [("What is it?", "A dog.")]
    with pytest.raises(Unusable) as refusal:
        parse_reasoning(PLAIN + "\n===\n" + PLAIN)
    assert refusal.value.reason == "several-questions"


def test_descriptions_are_text() -> None:
    assert parse_description("  A dog.\n\nIt sits.  ") == "A dog.\n\nIt sits."
    assert parse_description("Answer:\nA dog.") == "A dog."
    for text, reason in [("", "empty-answer"), (PLAIN, "unlabelled-block")]:
        with pytest.raises(Unusable) as refusal:
            parse_description(text)
        assert refusal.value.reason == reason


def test_the_published_examples_parse() -> None:
    for kind, parse in [("conversation", parse_dialogue), ("complex", parse_reasoning)]:
        assert all(parse(shot["answer"]) for shot in prompts()[kind]["shots"])
    assert [len(prompts()[kind]["shots"]) for kind in ("conversation", "detail", "complex")] == [2, 3, 3]
    assert all(parse_description(shot["answer"]) for shot in prompts()["detail"]["shots"])
