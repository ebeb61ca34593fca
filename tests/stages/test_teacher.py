"""The rule-based teacher: what it says follows from the captions and boxes in the request, of any image."""

from __future__ import annotations

import pytest
from openai import APIStatusError, OpenAI

from llavaflow.stages._answers import parse_dialogue, parse_reasoning
from llavaflow.stages._tasks import prompts
from llavaflow.stages._teacher import RuleTeacher
from llavaflow.stages._teacher_rules import answer, read_context

# a kitchen, not a scene of the generated world
CAPTIONS = "A white cat sleeps on a wooden table.\nTwo cups and a cat that lies near a blue bowl.\nA cat on a table."
BOXES = (
    "cat: [0.1, 0.1, 0.5, 0.6]\ncup: [0.7, 0.6, 0.8, 0.8]\ncup: [0.85, 0.6, 0.95, 0.8]\nbowl: [0.6, 0.05, 0.7, 0.15]"
)


def ask(kind: str, context: str) -> str:
    return answer(prompts()[kind]["system"], context)


def test_a_dialogue_says_only_what_the_captions_say() -> None:
    facts = dict(parse_dialogue(ask("conversation", CAPTIONS)))
    true = {
        "What can you see in the image?": "Two cups and a cat that lies near a blue bowl.",
        "What color is the cat?": "The cat is white.",
        "What color is the bowl?": "The bowl is blue.",
        "How many cups are there?": "There are two cups.",
    }
    assert len(facts) > 2 and facts.items() <= true.items()


def test_a_description_adds_what_the_boxes_say() -> None:
    text = ask("detail", f"{CAPTIONS}\n\n{BOXES}")
    for sentence in (
        "In all, there is one cat, two cups and one bowl.",
        "The white cat is at the left.",
        "One cup is at the bottom right.",
        "The blue bowl is at the top.",
    ):
        assert sentence in text
    assert "[" not in text and "caption" not in text


def test_reasoning_follows_from_the_boxes() -> None:
    seen = set()
    for number in range(20):
        question, reply = parse_reasoning(ask("complex", f"{CAPTIONS} {number}\n\n{BOXES}"))[0]
        seen.add(question)
        assert not any(word in question for word in ("cat", "cup", "bowl")), "the question must not tell"
        first = {
            "draws": "The white cat draws",
            "crossed": "meet the white cat first",
            "fell": "The blue bowl is the highest",
        }
        assert next(text for word, text in first.items() if word in question) in reply
    assert len(seen) == 3


def test_contexts_of_one_thing_or_none() -> None:
    assert parse_reasoning(ask("complex", "A red circle."))[0][0] == "What is the main subject of this picture?"
    assert ask("detail", "A red circle.") == "A red circle."
    assert read_context("").captions == [] and ask("detail", "") == ""


def test_the_wire_protocol_through_the_official_client() -> None:
    messages = [
        {"role": "system", "content": prompts()["detail"]["system"]},
        {"role": "user", "content": "A red circle."},
    ]
    with RuleTeacher() as teacher:
        client = OpenAI(base_url=teacher.base_url, api_key="none", max_retries=0)
        reply = client.chat.completions.create(model="any", messages=messages)
        assert reply.choices[0].message.content == "A red circle." and reply.usage.total_tokens > 0
        assert [model.id for model in client.models.list()] == ["rule-teacher"]
        with pytest.raises(APIStatusError, match="malformed request"):
            client.chat.completions.create(model="any", messages=[])
        with pytest.raises(APIStatusError, match="no /v1/embeddings here"):
            client.embeddings.create(model="any", input="x")
