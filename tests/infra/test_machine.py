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


def test_a_machine_like_another_names_what_differs(tmp_path: Path) -> None:
    box = tmp_path / "box.toml"
    box.write_text('like = "a100-40g"\ngpus = 4\nusd_per_gpu_hour = 1\n')
    found = parse(f"{box}")
    assert (found.kind, found.gpus, found.gpu_memory_gib, found.usd_per_gpu_hour) == ("box", 4, 40, 1.0)
    assert found.peak_tflops == parse("a100-40g").peak_tflops
    assert parse(found.spec) == found and parse(parse(f"{box}:2x8@512").spec).name == "box:2x8@512"
    box.write_text('like = "a100-41g"\n')
    with pytest.raises(InputError, match="Did you mean a100-40g"):
        parse(str(box))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nodes = 0", "nodes is 0; at least 1"),
        ("gpus = -1", "gpus is -1; at least 0"),
        ("gpus = 2", "2 GPUs without gpu_memory_gib"),
        ("gpus = 1\ngpu_memory_gib = 8\npeak_tflops = -3", "peak_tflops is -3.0"),
        ("gpus = 1\ngpu_memory_gib = nan", "gpu_memory_gib is nan; a number"),
        ('like = "h100"\nusd_per_gpu_hour = inf', "usd_per_gpu_hour is inf; a number"),
        ('like = ["h100"]', "unknown machine"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "box.toml").write_text(text)
    with pytest.raises(InputError, match=told):
        parse(str(tmp_path / "box.toml"))


def test_tokens_of_a_micro_step_are_part_of_the_spec() -> None:
    box = parse("a100-40g:2x4@2048")
    assert (box.nodes, box.gpus, box.row_tokens, box.name) == (2, 4, 2048, "a100-40g:2x4@2048")
    assert parse("h100@512").row_tokens == 512 and parse("cpu@512").name == "cpu@512"


def test_this_machine_has_cores_and_memory() -> None:
    here = this_machine()
    assert here.cores >= 1 and here.memory_gib > 0
