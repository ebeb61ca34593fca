"""Damaged raw files: whatever stands where a record should, a reader ends in one plain message or sets it aside.

Each source's small raw folder is damaged in many ways, one at a time: a file is cut off, has something behind its end,
or one value somewhere in it is missing or of another type.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llavaflow.datasets._source import Reading, source, source_names
from llavaflow.infra.errors import InputError

ODD = (None, "zz", -7, [], {}, 1.5, True)
DAMAGES = 16


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    for key in document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ():
        yield (*path, key)
        yield from places(document[key], (*path, key))


def damaged(data: bytes, suffix: str, dice: random.Random) -> bytes:
    kind = dice.random()
    if kind < 0.2:
        return data[: dice.randrange(len(data))]
    if kind < 0.3:
        return data + b"\n]}garbage \xff{"
    plain = gzip.decompress(data) if suffix == ".gz" else data
    try:
        rows = [json.loads(line) for line in plain.splitlines()] if suffix == ".jsonl" else json.loads(plain)
    except ValueError:
        rows = None
    if not isinstance(rows, (list, dict)):
        return b"\xff\x00" + plain
    *path, last = dice.choice(list(places(rows)))
    holder = rows
    for key in path:
        holder = holder[key]
    holder[last] = dice.choice(ODD)
    text = "\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows)
    return gzip.compress(text.encode()) if suffix == ".gz" else text.encode()


@pytest.mark.parametrize("name", source_names())
def test_no_damage_ends_in_a_traceback(raw: Any, name: str, tmp_path: Path) -> None:
    raw.WRITERS[name](tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    told = 0
    for number in range(DAMAGES):
        dice = random.Random(f"{name}/{number}")
        file = dice.choice(files)
        whole = file.read_bytes()
        file.write_bytes(damaged(whole, file.suffix, dice))
        for tolerate in (0.0, 1.0):
            reading = Reading(tolerate=tolerate)
            try:
                list(source(name).read(tmp_path, reading))
            except InputError as error:
                told += file.name in str(error)
            assert all(bad["where"] and bad["reason"] for bad in reading.quarantine)
            assert reading.malformed == len(reading.quarantine)
        file.write_bytes(whole)
    # any line at all is a row of a table in tabs: what is wrong with it is the address
    assert told >= 3 or name == "url-table", "damage is told with the file that has it"


@pytest.mark.parametrize("name", ["llava-json", "synthdog", "url-table"])
def test_a_parquet_that_is_none_is_told(name: str, tmp_path: Path) -> None:
    file = tmp_path / "train-0.parquet"
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot read .*train-0.parquet as parquet"):
        list(source(name).read(tmp_path, Reading()))
    pq.write_table(pa.table({"other": [1]}), file)
    with pytest.raises(InputError, match="train-0.parquet"):
        list(source(name).read(tmp_path, Reading()))


def test_rows_that_records_are_joined_with_are_set_aside_too(raw: Any, tmp_path: Path) -> None:
    raw.WRITERS["vqav2"](tmp_path)
    notes = tmp_path / "v2_mscoco_train2014_annotations.json"
    document = json.loads(notes.read_text())
    del document["annotations"][1]["question_id"]
    notes.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"annotations\.json, record 2: field 'question_id' is missing"):
        raw.read("vqav2", tmp_path)
    samples, dropped, reading = raw.read("vqav2", tmp_path, tolerate=0.5)
    assert [sample.id for sample in samples] == ["000000000001"] and dropped["no-annotation"] == 2
    assert reading.repairs["malformed-row-set-aside"] == 1
    assert reading.quarantine == [{"file": str(notes), "where": "record 2", "reason": "field 'question_id' is missing"}]
