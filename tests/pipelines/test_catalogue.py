"""The catalogue: what has a file is listed, a new file needs no other edit, and nothing heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.pipelines import _catalogue
from llavaflow.pipelines._catalogue import find_recipe, recipe_names, summary
from llavaflow.tests.pipelines.conftest import TOY, Command

FAMILY = '''"""Two toys in one file."""
from llavaflow.pipelines._recipe import Recipe
RECIPES = {name: Recipe(name=name, title=f"the {name}", stages={}) for name in ("duo-one", "duo-two")}
'''


def test_everything_listed_has_a_name_and_a_line(pipeline: Command) -> None:
    told = pipeline("list", "--json")
    assert told.code == 0
    assert {"llava15-tiny", "finetune-task"} <= {entry["name"] for entry in told.json["recipes"]}
    for entry in told.json["sources"]:
        assert pipeline("show", f"source:{entry['name']}").code == 0
    assert {"download", "train", "evaluate"} <= {entry["name"] for entry in told.json["stages"]}
    for kind, entries in told.json.items():
        assert all(entry["name"] and entry["summary"] for entry in entries), kind


def test_one_kind_can_be_asked_for(pipeline: Command) -> None:
    assert list(pipeline("list", "machines", "--json").json) == ["machines"]
    assert pipeline("list", "nothing").code == 2


def test_a_recipe_of_each_name_is_found() -> None:
    for name in recipe_names():
        assert find_recipe(name).name == name


def test_a_family_file_gives_several_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "duo.py").write_text(FAMILY)
    monkeypatch.setattr(_catalogue, "folder_of", lambda what: tmp_path)
    load = _catalogue.importlib.import_module
    monkeypatch.setattr(_catalogue.importlib, "import_module", lambda name: _import(tmp_path, name, load))
    assert recipe_names() == ["duo-one", "duo-two"]
    assert find_recipe("duo-two").title == "the duo-two"
    assert find_recipe("duo_two").name == "duo-two", "underscores are hyphens"
    with pytest.raises(InputError, match="Did you mean duo-two"):
        find_recipe("duo-tow")


def _import(folder: Path, name: str, load: object) -> object:
    namespace: dict[str, object] = {}
    exec((folder / f"{name.rpartition('.')[2]}.py").read_text(), namespace)
    return type("module", (), namespace)


def test_a_file_without_a_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InputError, match="defines no RECIPE"):
        find_recipe(str(tmp_path / "empty.py"))
    assert find_recipe(str(TOY)).name == "toy"


def test_a_summary_leaves_the_name_out(tmp_path: Path) -> None:
    (tmp_path / "mix.py").write_text('"""Mix: components become one set.\n\nMore."""')
    assert summary(tmp_path / "mix.py") == "Components become one set."


def test_help_and_list_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from llavaflow.pipelines._cli.main import main;"
        "main(['--help']); main(['list', 'stages']); main(['list', 'machines']);"
        "heavy = {'prefect', 'ray', 'torch', 'transformers', 'pyarrow', 'boto3'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout and "plan" in done.stdout
