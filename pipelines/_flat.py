"""A recipe as one flat table: `finetune.learning_rate` -> 2e-05, `finetune.data` -> `<mix>`.

This is what two recipes are compared by and what a golden file of a recipe holds: every setting of every stage, and
which stage each input comes from.
"""

from __future__ import annotations

from llavaflow.infra.artifact import Json
from llavaflow.infra.identity import flatten
from llavaflow.pipelines._recipe import Recipe


def flat_settings(recipe: Recipe) -> dict[str, Json]:
    """Every setting and input of every stage by its path, in the recipe's order."""
    found: dict[str, Json] = {}
    for name, stage in recipe.stages.items():
        inputs = stage.inputs()
        found[f"{name}.type"] = stage.type_name()
        for path, value in flatten(stage.settings()).items():
            # an input inside a list or a nested value shows as its type there; below it shows by its name
            held = path.removesuffix(".stage")
            if path and held not in inputs:
                found[f"{name}.{path}"] = value
        for path, held_stage in inputs.items():
            found[f"{name}.{path}"] = f"<{recipe.name_of(held_stage)}>"
    return found
