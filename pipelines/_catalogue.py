"""The catalogue: what exists is what has a file. Read from file names and docstrings, importing as little as possible.

A bare file name is an entry, a leading underscore is machinery. File names use underscores, command-line names hyphens.
A recipe file holds `RECIPE`; a family file holds `RECIPES`, whose names start with the file's name, so that a name
leads to its file without opening the others.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from llavaflow.infra.errors import InputError, unknown

if TYPE_CHECKING:
    from llavaflow.pipelines._recipe import Recipe

FOLDERS = {
    "recipes": "pipelines",
    "stages": "stages",
    "sources": "datasets",
    "filters": "stages/filters",
    "benchmarks": "datasets/benchmarks",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of `pipeline list`."""

    name: str
    summary: str
    file: str = ""


def cli_name(file_name: str) -> str:
    return file_name.replace("_", "-")


def file_name(cli_name: str) -> str:
    return cli_name.replace("-", "_")


def summary(path: Path) -> str:
    """The first line of a module's docstring, without its own name in front, read without importing it."""
    try:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
    except (OSError, SyntaxError):
        return ""
    line = text.strip().partition("\n")[0]
    head, found, tail = line.partition(": ")
    named = head.strip("`").lower().removeprefix("pipeline ").replace(" ", "_").replace("-", "_")
    line = tail if found and named == path.stem else line
    return line[:1].upper() + line[1:]


def folder_of(what: str) -> Path:
    """The folder whose files are the entries of `what`."""
    room, _, inner = FOLDERS[what].partition("/")
    # a namespace room has no __init__.py: ask the package system where it lies, in a checkout and in a wheel alike
    return Path(str(files(f"llavaflow.{room}").joinpath(inner)))


def entries(what: str) -> list[Entry]:
    """The catalogue files of one kind, sorted by name."""
    return [
        Entry(name=cli_name(path.stem), summary=summary(path), file=f"{FOLDERS[what]}/{path.name}")
        for path in _modules(folder_of(what))
    ]


def _modules(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))


def recipe_names() -> list[str]:
    """Every recipe name; family files are imported, single recipes are not."""
    return sorted(entry.name for entry in recipe_entries())


def recipe_entries() -> list[Entry]:
    """One entry per recipe: a family file gives one for each of its recipes, with their titles."""
    found: list[Entry] = []
    for path in _modules(folder_of("recipes")):
        if _is_family(path):
            rows = _recipes_in(path.stem).items()
            found += [Entry(name=name, summary=recipe.title, file=f"pipelines/{path.name}") for name, recipe in rows]
        else:
            found.append(Entry(name=cli_name(path.stem), summary=summary(path), file=f"pipelines/{path.name}"))
    return sorted(found, key=lambda entry: entry.name)


def _is_family(path: Path) -> bool:
    names = (
        target.id
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    )
    return "RECIPES" in names


def find_recipe(name: str) -> Recipe:
    """The recipe with this command-line name, or in this `.py` file of your own.

    Raises InputError with the nearest names when there is none.
    """
    if name.endswith(".py"):
        return _recipe_in_file(Path(name))
    stems = {path.stem for path in _modules(folder_of("recipes"))}
    wanted = file_name(name)
    for stem in sorted(stems, key=len, reverse=True):
        if wanted == stem or wanted.startswith(f"{stem}_"):
            found = _recipes_in(stem).get(cli_name(wanted))
            if found is not None:
                return found
    raise unknown("recipe", name, recipe_names(), "pipelines/")


def _recipe_in_file(path: Path) -> Recipe:
    if not path.is_file():
        raise InputError(f"there is no recipe file {path}. Give the path of a file that defines RECIPE, or a name.")
    spec = importlib.util.spec_from_file_location(f"llavaflow_recipe_{path.stem}", path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return _single(module, str(path))


def _single(module: ModuleType, where: str) -> Recipe:
    from llavaflow.pipelines._recipe import Recipe

    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise InputError(f"{where} defines no RECIPE. End it with RECIPE = Recipe(name=..., stages={{...}}).")
    return recipe


def _recipes_in(stem: str) -> dict[str, Recipe]:
    module = importlib.import_module(f"llavaflow.pipelines.{stem}")
    recipes: dict[str, Recipe] = dict(getattr(module, "RECIPES", {}))
    if not recipes:
        single = _single(module, f"pipelines/{stem}.py")
        recipes = {single.name: single}
    for key, recipe in recipes.items():
        if key != recipe.name or not file_name(recipe.name).startswith(stem):
            raise InputError(f"pipelines/{stem}.py holds '{recipe.name}': a recipe's name starts with its file's.")
    return recipes
