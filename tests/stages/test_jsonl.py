"""The ledger of JSON lines: whatever a kill leaves at its end, whole lines stay and a torn one never happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from llavaflow.stages import _jsonl
from llavaflow.stages._jsonl import JsonLines


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("tail", [b"", b'{"row": 3', b'{"row": "a long one that no block holds'])
def test_a_torn_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, tail: bytes) -> None:
    monkeypatch.setattr(_jsonl, "_BLOCK_BYTES", block)
    ledger = JsonLines(tmp_path / "a.jsonl")
    with ledger:
        places = [ledger.append({"row": number}) for number in range(3)]
    with ledger.path.open("ab") as stream:
        stream.write(tail)
    assert [row["row"] for row in ledger.read()] == [0, 1, 2]
    with ledger:
        places.append(ledger.append({"row": 4}))
    assert [(start, row["row"]) for start, row in ledger.places()] == list(zip(places, [0, 1, 2, 4], strict=True))
    assert [ledger.read_at(start)["row"] for start in places] == [0, 1, 2, 4]


def test_a_ledger_of_one_torn_line_is_empty(tmp_path: Path) -> None:
    ledger = JsonLines(tmp_path / "a.jsonl")
    ledger.path.write_bytes(b'{"row": 0')
    with ledger:
        pass
    assert ledger.path.read_bytes() == b"" and list(ledger.read()) == list(ledger.places()) == []
