"""Fingerprints: what counts, what does not, and how a difference is worded."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llavaflow.infra.fingerprint import canonical, digest, digest_outside
from llavaflow.infra.identity import Identity, InputRef, differences, explain, flatten

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
INPUT = InputRef(kind="shards", stage="fetch", fingerprint="f1", family="a")
THIS = Identity(type="Sift", version="1", settings={"limit": 3}, inputs={"source": INPUT}, outside={"table": "d1"})


def test_a_fingerprint_is_the_same_on_every_machine_and_day() -> None:
    assert THIS.base == "a1fa228492dcd2d3fdb3"
    assert digest({"b": 1e-3, "a": [1, None, True, "é"]}) == digest({"a": [1, None, True, "é"], "b": 0.001})


@pytest.mark.parametrize(
    "change",
    [
        {"type": "Other"},
        {"version": "2"},
        {"settings": {"limit": 4}},
        {"settings": {"limit": 3, "more": None}},
        {"inputs": {"source": replace(INPUT, fingerprint="f2")}},
        {"inputs": {"other": INPUT}},
        {"outside": {"table": "d2"}},
    ],
)
def test_everything_that_decides_the_content_counts(change: dict[str, Any]) -> None:
    assert replace(THIS, **change).base != THIS.base


def test_the_name_of_an_outside_file_and_of_an_input_stage_do_not_count() -> None:
    named = replace(THIS, settings={"table": {"path": "a.csv"}})
    assert named.base == replace(THIS, settings={"table": {"path": "b.csv"}}).base
    assert replace(THIS, inputs={"source": replace(INPUT, stage="get")}).base == THIS.base


def test_generations_have_their_own_fingerprints_and_the_first_is_the_base() -> None:
    assert THIS.fingerprint(0) == THIS.base
    assert len({THIS.fingerprint(number) for number in range(5)}) == 5


def test_a_family_is_blind_to_newer_data_but_not_to_another_model() -> None:
    newer = replace(INPUT, fingerprint="f2")
    assert replace(THIS, inputs={"source": newer}, outside={"table": "d2"}).family == THIS.family
    assert replace(THIS, settings={"limit": 4}).family != THIS.family
    model = replace(INPUT, kind="checkpoint")
    with_model = replace(THIS, inputs={"source": model})
    assert replace(THIS, inputs={"source": replace(model, fingerprint="f2")}).family != with_model.family


@given(JSON)
def test_canonical_json_is_stable_under_a_round_trip(value: Any) -> None:
    import json

    assert canonical(json.loads(canonical(value))) == canonical(value)


@given(JSON, JSON)
def test_two_values_differ_exactly_when_a_difference_is_listed(before: Any, after: Any) -> None:
    assert (differences(before, after) == []) == (flatten(before) == flatten(after))
    assert differences(before, before) == []


def test_what_is_not_json_is_refused() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            digest(value)
    with pytest.raises(TypeError):
        digest({1, 2})


def test_nested_settings_are_named_by_their_path() -> None:
    nested = {"filters": [{"type": "Size", "least": 64}], "names": [], "rate": None}
    assert flatten(nested) == {"filters[0].type": "Size", "filters[0].least": 64, "names": [], "rate": None}


def test_every_cause_is_worded() -> None:
    newer = replace(INPUT, fingerprint="f2")
    new = Identity(type="Sift", version="2", settings={"limit": 4}, inputs={"source": newer}, outside={"table": "d2"})
    assert explain(THIS, new) == [
        "version 1 -> 2",
        "limit 3 -> 4",
        "outside file table changed",
        "input source changed",
    ]
    assert explain(THIS, replace(THIS, inputs={"other": INPUT})) == ["input other added", "input source removed"]
    assert explain(THIS, replace(THIS, type="Other")) == ["stage type Sift -> Other"]
    assert explain(THIS, THIS) == []


def test_an_outside_file_is_read_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file, memory = tmp_path / "big", tmp_path / "memory" / "outside.json"
    file.write_text("content")
    first = digest_outside(file, memory)
    monkeypatch.setattr("llavaflow.infra.fingerprint.sha256_file", lambda _: pytest.fail("read again"))
    assert digest_outside(file, memory) == first


def test_a_folder_counts_by_names_and_sizes(tmp_path: Any) -> None:
    (tmp_path / "a").write_text("1")
    first = digest_outside(tmp_path)
    (tmp_path / "b").write_text("")
    assert digest_outside(tmp_path) != first
