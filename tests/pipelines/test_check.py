"""`pipeline check`: the command. What each gate sees is tests/pipelines/test_gates.py."""

from __future__ import annotations

from pathlib import Path

from llavaflow.tests.pipelines.conftest import TOY, Command


def test_the_command_tells_every_gate_and_its_exit_code(pipeline: Command, tmp_path: Path) -> None:
    passed = pipeline("check", TOY, "--json")
    assert passed.code == 0 and passed.json["passed"] is True
    assert {"packages", "disk", "ports", "template"} <= {gate["gate"] for gate in passed.json["gates"]}
    failed = pipeline("check", TOY, "--json", "--set", f"draw.note={tmp_path / 'none'}")
    assert failed.code == 2 and failed.json["passed"] is False


def test_a_recipe_that_its_user_must_complete_says_with_what(pipeline: Command) -> None:
    told = pipeline("check", "finetune-task", "--machine", "h100")
    assert told.code == 2
    assert "no data is given" in told.out and "--set base.hub=NAME" in told.out


def test_a_store_that_is_a_file_is_a_failed_gate_and_not_a_crash(pipeline: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = pipeline("check", "llava15", "--store", tmp_path / "file" / "store")
    assert told.code == 2 and "failed  store" in told.out
