"""Streaming of raw JSON: any chunk size gives the records of a whole parse; bad records keep their line."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from llavaflow.datasets import _raw
from llavaflow.datasets._raw import Bad, elements, find, lines, rows
from llavaflow.infra.errors import InputError


def awkward(count: int) -> list[dict[str, Any]]:
    """Records whose strings hold what a careless scanner trips over."""
    rng = random.Random(0)
    texts = ['a "quoted" }, { text', "brackets ]][[{{", "back\\slash\\", "comma, comma", "}, {", "ü 漢字", ""]
    return [
        {"id": number, "text": rng.choice(texts), "nested": [{"a": [1, {"b": rng.choice(texts)}]}] * rng.randrange(3)}
        for number in range(count)
    ]


@pytest.mark.parametrize("chunk", [7, 64, 1000, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_elements_streams_what_a_whole_parse_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(_raw, "CHUNK_BYTES", chunk)
    records = awkward(60)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(records, indent=indent))
    assert list(elements(path)) == records
    path.write_text(json.dumps({str(record["id"]): record for record in records}, indent=indent))
    assert list(elements(path)) == [(str(record["id"]), record) for record in records]


@pytest.mark.parametrize("chunk", [200, 1000, 1 << 20])
def test_a_repeated_key_hides_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(_raw, "CHUNK_BYTES", chunk)
    records = [(str(record["id"] // 3), record) for record in awkward(60)]
    path = tmp_path / "x.json"
    path.write_text("{" + ",".join(f'"{key}": {json.dumps(record)}' for key, record in records) + "}")
    assert list(elements(path)) == records


@pytest.mark.parametrize("chunk", [300, 1 << 20])
def test_elements_under_a_key_end_with_their_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(_raw, "CHUNK_BYTES", chunk)
    records = awkward(40)
    path = tmp_path / "x.json"
    document = {"info": {"n": 1}, "images": records[:10], "annotations": records, "categories": [1, 2]}
    path.write_text(json.dumps(document))
    assert list(elements(path, "annotations")) == records
    assert list(elements(path, "images")) == records[:10]
    assert list(elements(path, "categories")) == [1, 2]
    with pytest.raises(InputError, match="no list or mapping|under 'regions'"):
        list(elements(path, "regions"))


def test_empty_lists_and_gzip(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf {"data": [ ], "more": [{"a": 1}]}'))
    assert list(elements(path, "data")) == []
    assert list(elements(path, "more")) == [{"a": 1}]


def test_a_bad_element_is_reported_with_its_line_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[\n{"a": 1},\n{"a": 2,, },\n{"a": 3}\n]')
    found = list(elements(path))
    assert [found[0], found[2]] == [{"a": 1}, {"a": 3}]
    assert isinstance(found[1], Bad) and found[1].line == 3


def test_a_cut_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1},\n{"a": 2')
    found = list(elements(path))
    assert found[0] == {"a": 1}
    assert isinstance(found[-1], Bad) and "ends inside" in found[-1].reason


def test_lines_skip_blanks_and_report_bad_ones(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n{"a": 2}\n')
    found = list(lines(path))
    assert [found[0], found[2]] == [{"a": 1}, {"a": 2}]
    assert isinstance(found[1], Bad) and found[1].line == 3


def test_json_lines_are_recognised_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert list(rows(path)) == [{"a": 1}, {"a": 2}]
    long = "x" * 100_000
    path.write_text(f'{{"a": "{long}"}}\n{{"a": 2}}\n')
    assert list(rows(path)) == [{"a": long}, {"a": 2}]


def test_find_names_what_it_looked_for_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "other.txt").touch()
    with pytest.raises(InputError, match=r"no a\.json .*other\.txt.*source:gqa"):
        find(tmp_path, "a.json", source="gqa")
    for name in ("one.json", "two.json"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"fits several files.*one\.json, two\.json"):
        find(tmp_path, "*.json", source="gqa")
