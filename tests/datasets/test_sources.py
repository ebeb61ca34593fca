"""What all sources promise, held against a small raw folder of each.

Samples have the right form, nothing is lost, a second read gives the same, and nothing that a raw file may hold ends
in a traceback. Each one's own rule has its test in the file of its family.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets._sample import IMAGE_TOKEN
from llavaflow.datasets._source import source, source_names
from llavaflow.infra.errors import InputError


def test_every_source_has_a_case_here(raw: Any) -> None:
    assert set(raw.WRITERS) == set(source_names())


@pytest.mark.parametrize("name", source_names())
def test_samples_have_the_form_of_training_data(raw: Any, name: str, tmp_path: Path) -> None:
    samples, dropped, reading = raw.read(name, tmp_path / "raw")
    found = source(name)
    assert samples and found.name == name
    assert set(dropped) <= set(found.reasons()), "every reason is declared"
    assert set(+reading.repairs) <= set(found.mendings()), "every mending is declared"
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert [turn.role for turn in sample.turns] == ["human", "gpt"] * (len(sample.turns) // 2)
        assert all(turn.text == turn.text.strip() != "" for turn in sample.turns)
        assert sum(turn.text.count(IMAGE_TOKEN) for turn in sample.turns) == len(sample.images)
        assert sample.parents and all(":" in parent for parent in sample.parents)


@pytest.mark.parametrize("name", source_names())
def test_nothing_is_lost(raw: Any, name: str, tmp_path: Path) -> None:
    samples, dropped, reading = raw.read(name, tmp_path / "raw")
    tables = {parent.partition("/")[0] for sample in samples for parent in sample.parents[:1]}
    every = {parent for sample in samples for parent in sample.parents}
    used = {parent for parent in every if parent.partition("/")[0] in tables}
    assert len(used) + dropped.total() == reading.records


@pytest.mark.parametrize("name", source_names())
def test_a_second_read_gives_the_same(raw: Any, name: str, tmp_path: Path) -> None:
    assert raw.read(name, tmp_path / "raw")[0] == raw.read(name, tmp_path / "raw")[0]


def test_malformed_records_stop_or_are_set_aside(raw: Any, tmp_path: Path) -> None:
    good = {"image": "a.png", "question": "Q?", "answer": "x", "question_id": 1}
    raw.dump(tmp_path / "raw/train_qa.json", [good, {"image": 1}])
    with pytest.raises(InputError, match=r"train_qa\.json, record 2: field 'answer' is missing"):
        raw.read("dvqa", tmp_path / "raw")
    samples, dropped, reading = raw.read("dvqa", tmp_path / "raw", tolerate=0.5)
    assert len(samples) == 1 and dropped == {"malformed-record": 1}
    assert reading.quarantine[0]["where"] == "record 2"
    with pytest.raises(InputError, match="more than the tolerated share of 0.4"):
        raw.read("dvqa", tmp_path / "raw", tolerate=0.4)


def test_faults_may_cluster_within_the_tolerated_share(raw: Any, tmp_path: Path) -> None:
    rows = [{"image": "a.png", "question": "Q?", "answer": "x", "question_id": number} for number in range(1000)]
    raw.dump(tmp_path / "raw/train_qa.json", [*rows[:200], *[{"image": 1}] * 20, *rows[200:]])
    _, dropped, reading = raw.read("dvqa", tmp_path / "raw", tolerate=0.02)
    assert dropped == {"malformed-record": 20} and reading.records == 1020


def test_a_suffixed_id_is_never_one_that_is_there(raw: Any, tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]
    raw.dump(tmp_path / "raw/x.json", [{"id": name, "conversations": talk} for name in ("a", "a#2", "a", "a", "a#2")])
    samples, _, _ = raw.read("llava-json", tmp_path / "raw")
    assert [sample.id for sample in samples] == ["a", "a#2", "a#3", "a#4", "a#2#2"]


def test_no_text_of_a_raw_file_becomes_an_image_token(raw: Any, tmp_path: Path) -> None:
    told = {"lecture": "See <image>.", "solution": "As <image> shows.", "hint": "<image>", "caption": "A <image>."}
    problem = {"question": "Q?", "choices": ["a", "<image> b"], "answer": 0, "image": None, **told}
    raw.dump(tmp_path / "sqa/problems.json", {"7": problem})
    (sample,), _, _ = raw.read("scienceqa", tmp_path / "sqa", options={"captions": "yes"})
    assert not any("<image>" in turn.text for turn in sample.turns)
    caption = {"image_id": "x", "caption_id": 1, "caption_str": "A sign."}
    raw.dump(tmp_path / "caps/TextCaps_0.1_train.json", {"data": [caption]})
    tokens = {"data": [{"image_id": "x", "ocr_tokens": ["EXIT", "<image>"]}]}
    raw.dump(tmp_path / "caps/TextVQA_Rosetta_OCR_v0.2_train.json", tokens)
    (sample,), _, reading = raw.read("textcaps", tmp_path / "caps")
    assert sample.turns[0].text.endswith("Reference OCR token: EXIT") and sample.turns[0].text.count("<image>") == 1
    assert reading.repairs["image-token-in-text"] == 1
