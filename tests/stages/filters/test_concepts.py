"""Concept balance: the CC3M-595K rule against a slow walk written from its description, and the phrase rules."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.stages.filters._phrases import agreement, extractor, rule_phrases
from llavaflow.stages.filters.concepts import Concepts, balance

# phrases marked by hand
MARKED = {
    "A man riding a wave on top of a surfboard.": "man|wave|top|surfboard",
    "a woman in a red dress standing next to a parked car": "woman|red dress|parked car",
    "Two dogs playing with a frisbee in the park": "two dogs|frisbee|park",
    "the living room of a luxury apartment with a view of the city": "living room|luxury apartment|view|city",
    "A bathroom with a sink, a toilet and a large mirror": "bathroom|sink|toilet|large mirror",
    "a red circle at the top left": "red circle|top left",
    "Photo of two blue squares and a green triangle": "photo|two blue squares|green triangle",
    "actor attends the premiere of romantic comedy": "actor|premiere|romantic comedy",
    "A plate of food that has broccoli on it": "plate|food|broccoli",
    "old wooden building near the railway station": "old wooden building|railway station",
    "football player celebrates after scoring a goal during the match": "football player|goal|match",
    "the sun sets over mountains at the end of a summer day": "sun|mountains|end|summer day",
}


def test_phrases_agree_with_hand_marked_captions() -> None:
    expected = [marked.split("|") for marked in MARKED.values()]
    assert agreement(rule_phrases(list(MARKED)), expected) >= 0.9


def test_phrases_agree_with_spacy() -> None:
    """What spaCy 3.8 found with its small English model in captions written for this test."""
    found: dict[str, list[str]] = json.loads(Path(__file__).with_name("spacy_phrases.json").read_text())
    assert len(found) == 60 and agreement(rule_phrases(list(found)), list(found.values())) >= 0.9


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("The chef is cutting vegetables.", ["chef", "vegetables"]),
        ("Children building a castle near a brick building.", ["children", "castle", "brick building"]),
        ("A woman dressed in leather by a painted door.", ["woman", "leather", "painted door"]),
        ("A black and white photo and a red car.", ["black and white photo", "red car"]),
        ("Horses laying down in the bed of a river.", ["horses", "bed", "river"]),
    ],
)
def test_participles_belong_to_verbs_or_nouns(caption: str, phrases: list[str]) -> None:
    assert rule_phrases([caption]) == [phrases]


def test_phrases_of_odd_texts() -> None:
    assert rule_phrases(["", "...", "the of and", "12345", "the cat, the cat"]) == [[], [], [], [], ["cat"]]


def test_an_extractor_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="Known: auto, spacy, spacy/MODEL, rules"):
        extractor("nltk")
    with pytest.raises(InputError, match="its model no_such_model is not installed"):
        extractor("spacy/no_such_model")


def test_the_facts_say_where_phrases_came_from() -> None:
    assert Concepts(extractor="rules").facts() == {"phrases_by": "rules"}
    assert Concepts().facts()["phrases_by"] in ("rules", "spacy/en_core_web_sm")


def walk(captions: list[list[str]], least: int, most: int, seed: int) -> list[bool]:
    """The rule as the paper tells it: from the rarest phrase up, add its captions to the pool."""
    members: dict[str, list[int]] = {}
    for position, phrases in enumerate(captions):
        for phrase in phrases:
            members.setdefault(phrase, []).append(position)
    pool: set[int] = set()
    for phrase in sorted(members, key=lambda name: (len(members[name]), name)):
        if len(members[phrase]) > most:
            pool |= set(random.Random(f"{seed}/{phrase}").sample(members[phrase], most))
        elif len(members[phrase]) >= least:
            pool |= set(members[phrase])
    return [position in pool for position in range(len(captions))]


@pytest.mark.parametrize("seed", [0, 1])
def test_balance_is_the_published_rule(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"phrase {n}" for n in range(60)]
    weights = [1 / (n + 1) for n in range(60)]
    captions = [sorted(set(rng.choices(names, weights, k=rng.randint(0, 4)))) for _ in range(600)]
    taken = balance(captions, min_captions=3, max_captions=20, seed=seed).tolist()
    assert taken == walk(captions, 3, 20, seed)
    assert 0 < sum(taken) < 600


def test_balance_bounds() -> None:
    captions = [["common"]] * 500 + [["rare"]] * 2 + [["fine"]] * 3 + [[]]
    taken = balance(captions, min_captions=3, max_captions=100, seed=0)
    assert taken[:500].sum() == 100 and taken[500:].tolist() == [False, False, True, True, True, False]
    assert balance([], min_captions=3, max_captions=100, seed=0).tolist() == []
