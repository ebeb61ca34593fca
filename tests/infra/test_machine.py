"""Machines: how they are named, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.infra.machine import KINDS, parse, this_machine


def test_a_kind_alone_is_one_node_as_sold() -> None:
    assert (parse("a100-80g").nodes, parse("a100-80g").gpus) == (1, 8)
    assert parse("a100-80g:2x4").devices == 8
    assert parse("cpu").devices == 0 and parse("cpu").ranks == 2
    assert all(parse(kind).kind == kind for kind in KINDS)


def test_a_name_leads_back_to_the_machine() -> None:
    assert parse(parse("h100:3x2").name) == parse("h100:3x2")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("a100-8g", "Did you mean a100-80g"),
        ("h100:8", "KIND:NODESxGPUS"),
        ("h100:0x8", "no device"),
        ("h100:1x0", "no device"),
        ("none.toml", "cannot read the machine file"),
    ],
)
def test_what_is_no_machine_is_refused(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse(spec)


def test_a_file_describes_a_machine_of_ones_own(tmp_path: Path) -> None:
    box = tmp_path / "box.toml"
    box.write_text("gpus = 4\ngpu_memory_gib = 48\npeak_tflops = 181.5\n")
    assert (parse(str(box)).kind, parse(f"{box}:2x4").devices) == ("box", 8)
    box.write_text("gpu_memory = 48\n")
    with pytest.raises(InputError, match="gpu_memory_gib"):
        parse(str(box))
    box.write_text('gpus = "four"\n')
    with pytest.raises(InputError, match="gpus must be int"):
        parse(str(box))


def test_this_machine_has_cores_and_memory() -> None:
    here = this_machine()
    assert here.cores >= 1 and here.memory_gib > 0
