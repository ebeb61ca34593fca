"""From zoo: a recipe that starts from published weights, a row of the model zoo in place of the training they end.

A projector takes the place of `pretrain`; a whole model that of `base`, or else of the last training, so that what is
left of the recipe evaluates and publishes it. Stages that nothing needs any more are left out. What goes on from the
weights must treat pictures and turns as they were made to be: LLaVA-1.6 finetuned without tiles only gets worse.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from llavaflow.infra.errors import InputError
from llavaflow.models.images import PINPOINTS_336
from llavaflow.models.sizes import recognise_language
from llavaflow.models.templates import for_family, names
from llavaflow.models.zoo import ZOO, ZooRow
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages.base import Base
from llavaflow.stages.publish import Publish
from llavaflow.stages.train import Train
from llavaflow.stages.zoo_weights import ZooWeights

# where the published models lie in Hugging Face's format
CONVERTED = "llava-hf/"


def start_from_zoo(recipe: Recipe, name: str) -> Recipe:
    """The recipe on the weights of a row. Raises InputError for an unknown row, or one that does not fit."""
    weights = ZooWeights(name=name)
    row = weights.row()
    target = _target(recipe, name, row)
    stage = recipe.stages[target]
    if isinstance(stage, Train) and row.recipe != recipe.name:
        _check_fit(recipe, target, stage, name, row)
    if "publish" in recipe.stages:
        recipe = recipe.replace({"publish": _published(recipe, target, row)})
    recipe = recipe.swap({target: weights})
    after = [key for key in recipe.stages if target in recipe.needed_for(key)]
    kept = set(recipe.needed_for(*after))
    return dataclasses.replace(
        recipe,
        stages={key: value for key, value in recipe.stages.items() if key in kept},
        notes=f"Starts from {row.weights} ({row.source}). {recipe.notes}".strip(),
        sources={path: text for path, text in recipe.sources.items() if path.partition(".")[0] in kept - {target}},
    )


def zoo_row(origin: object) -> ZooRow | None:
    """The row whose weights a stage brings: from the zoo, or from the hub under a published name."""
    if isinstance(origin, ZooWeights):
        return origin.row()
    hub = (origin.hub if isinstance(origin, Base) else None) or ""
    converted = hub.lower().removeprefix(CONVERTED)
    if converted != hub.lower():
        # llava-hf/llava-1.5-7b-hf is llava-v1.5-7b, llava-hf/llava-v1.6-34b-hf is llava-v1.6-34b
        row = ZOO.get(converted.removesuffix("-hf").replace("llava-1.", "llava-v1."))
        return row if row and row.form == "checkpoint" else None
    return next((row for row in ZOO.values() if row.weights == hub and row.form != "projector"), None)


def unlike(name: str, stage: Train, row: ZooRow) -> Iterator[tuple[str, str]]:
    """How a training that goes on from a row's model brings it pictures otherwise, and the settings that mend it."""
    tiles = row.image_aspect == "anyres"
    if tiles != (stage.image_aspect == "anyres"):
        made = "in tiles (anyres)" if tiles else "without tiles"
        cut = [f"pinpoints='{json.dumps(PINPOINTS_336 if tiles else [])}'", *(["max_length=4096"] if tiles else [])]
        yield f"it saw pictures {made}, {name} does not", _set(name, f"image_aspect={row.image_aspect}", *cut)
    for field in ("select_layer", "im_start_end"):
        theirs, ours = getattr(row, field), getattr(stage, field)
        if theirs != ours:
            yield f"its {field} is {theirs}, {name} has {ours}", _set(name, f"{field}={theirs}")


def _other_turns(recipe: Recipe, name: str, stage: Train, row: ZooRow) -> Iterator[tuple[str, str]]:
    """A template that was not made for the row's language model."""
    size = recognise_language([row.language])
    if size and stage.template in names() and stage.template not in for_family(size.family):
        mend = [_set(key, f"template={row.template}") for key in (recipe.name_of(stage.data), name)]
        yield f"template '{stage.template}' is not made for {size.family} models", " ".join(mend)


def _set(stage: str, *assignments: str) -> str:
    return " ".join(f"--set {stage}.{assignment}" for assignment in assignments)


def refuse_unlike(recipe: Recipe) -> None:
    """Raise InputError when a training goes on from published weights in a way that they were not made for."""
    for name, stage in recipe.stages.items():
        row = zoo_row(stage.base.stage) if isinstance(stage, Train) and stage.base else None
        if not isinstance(stage, Train) or row is None:
            continue
        if found := [*unlike(name, stage, row), *_other_turns(recipe, name, stage, row)]:
            what, mend = zip(*found, strict=True)
            raise InputError(
                f"{row.weights} does not go with {recipe.name}: {'; '.join(what)}. Mend it with {' '.join(mend)}."
            )


def _target(recipe: Recipe, name: str, row: ZooRow) -> str:
    """The stage whose place the weights take."""
    wanted = list(_ends(recipe, row))
    if not wanted:
        trained = ", ".join(key for key, stage in recipe.stages.items() if isinstance(stage, Train)) or "nothing"
        raise InputError(
            f"{recipe.name} has no stage that {name} ({row.form}) could stand for: it trains {trained}. "
            f"`pipeline show zoo:{name}` tells which recipe makes it."
        )
    return wanted[-1]


def _ends(recipe: Recipe, row: ZooRow) -> Iterator[str]:
    for key, stage in recipe.stages.items():
        projector = isinstance(stage, Train) and stage.trainable == ("mm_projector",)
        if row.form == "projector":
            if projector:
                yield key
        elif isinstance(stage, Base) or (isinstance(stage, Train) and not projector and _is_made(key, recipe, row)):
            yield key
            if isinstance(stage, Base):
                return


def _is_made(key: str, recipe: Recipe, row: ZooRow) -> bool:
    """Whether a whole model of this row may stand for a training: not the last one if the row ends before it."""
    return bool(row.finetune_data) or key != "finetune" or "vl-pretrain" not in recipe.stages


def _check_fit(recipe: Recipe, target: str, stage: Train, name: str, row: ZooRow) -> None:
    """Weights of another recipe have the same tower, language model and projector."""
    has = {
        "language": (row.language, stage.language.name if stage.language else ""),
        "vision": (row.tower, stage.vision.name if stage.vision else ""),
        "projector": (row.projector, stage.projector),
    }
    if row.form == "projector":
        has["im_start_end"] = (str(row.im_start_end), str(stage.im_start_end))
    for field, (theirs, ours) in has.items():
        # Vicuna v0 is on no hub: a recipe names the folder that it must lie in
        if theirs not in (ours, _on_no_hub(ours)):
            raise InputError(
                f"{name} does not fit {recipe.name}: its {field} is {theirs}, {target} has {ours}. "
                f"{f'`{row.recipe}` is the recipe that makes it.' if row.recipe else 'No recipe here makes it.'}"
            )


def _on_no_hub(folder: str) -> str:
    """The zoo's name of the Vicuna that lies in a folder."""
    size, _, version = Path(folder).name.removeprefix("vicuna-").partition("-")
    return f"Vicuna-{size.upper()}-{version}"


def _published(recipe: Recipe, target: str, row: ZooRow) -> dict[str, object]:
    """The fields of `publish` without the data that only the replaced trainings saw."""
    publish = recipe.stages["publish"]
    assert isinstance(publish, Publish), "a recipe's stage `publish` is a Publish"
    stage = recipe.stages[target]
    if row.form == "projector":
        seen = stage.data if isinstance(stage, Train) else None
        return {"data": tuple(data for data in publish.data if data != seen)}
    return {"data": (), "projector": stage}
