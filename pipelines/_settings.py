"""`--set stage.field=value`: one field of a recipe replaced from text, by the type that the field declares.

    finetune.learning_rate=1e-3      finetune.lora=none          data.file=my.json
    filter.filters[3].threshold=0.3  evaluate.benchmarks=pope,gqa

A path walks into nested dataclasses and tuple items, never into another stage: that is set under its own name. A part
that is none begins with its defaults (evaluate.review.model=gpt-4 gives llava15 a judge).
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from llavaflow.infra.errors import InputError, unknown
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._stage import Stage

TRUE, FALSE, NONE = ("true", "yes", "1", "on"), ("false", "no", "0", "off"), ("none", "null", "")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def apply_settings(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """The recipe with every `stage.field=value` applied. Raises InputError and applies none when one is wrong."""
    changes: dict[str, dict[str, object]] = {}
    for assignment in assignments:
        target, found, text = assignment.partition("=")
        stage_name, dot, path = target.strip().partition(".")
        if not found or not dot or not path:
            raise InputError(
                f"cannot read --set '{assignment}'. Write stage.field=value, as finetune.learning_rate=1e-3."
            )
        stage = recipe.stage(stage_name)
        steps = [name if name else int(index) for name, index in _STEP.findall(path)]
        fields = {**stage.fields(), **changes.get(stage_name, {})}
        name = _known_field(str(steps[0]), stage, stage_name)
        new = _replaced(fields[name], _type_of(stage, name, fields[name]), steps[1:], text, target.strip())
        changes.setdefault(stage_name, {})[name] = new
    try:
        return recipe.replace(changes)
    except (ValueError, TypeError) as error:
        raise InputError(f"the settings {', '.join(assignments)} do not go together: {error}.") from error


def _known_field(name: str, holder: Any, where: str) -> str:
    known = [item.name for item in dataclasses.fields(holder) if item.init]
    # command-line habit: hyphens mean the same
    if (plain := name.replace("-", "_")) in known:
        return plain
    raise unknown("setting", name, known, f"{where}, a {type(holder).__name__}")


def _type_of(holder: Any, name: str, value: object) -> Any:
    """The declared type of a field; the type of its value where the annotation cannot be resolved at run time."""
    try:
        return get_type_hints(type(holder), include_extras=False)[name]
    except NameError:
        return type(value)


def _replaced(value: Any, annotation: Any, steps: list[str | int], text: str, target: str) -> object:
    """`value` with the part that `steps` lead to replaced by what `text` says."""
    if not steps:
        return parse_value(text, annotation, target, value)
    if isinstance(value, Stage):
        raise InputError(f"{target} leads into another stage of the recipe. Set that stage's field under its own name.")
    step, rest = steps[0], steps[1:]
    if value is None:
        value = _by_default(annotation)
    if isinstance(value, (list, tuple)) and str(step).isdigit():
        if int(step) >= len(value):
            raise InputError(f"{target}: there are {len(value)} items, numbered from 0.")
        items = list(value)
        items[int(step)] = _replaced(items[int(step)], _item_type(annotation, items[int(step)]), rest, text, target)
        return type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = _known_field(str(step), value, target)
        inner = getattr(value, name)
        return dataclasses.replace(value, **{name: _replaced(inner, _type_of(value, name, inner), rest, text, target)})
    if isinstance(value, Mapping):
        if step not in value:
            raise unknown("key", str(step), map(str, value), target)
        return {**value, step: _replaced(value[step], type(value[step]), rest, text, target)}
    raise InputError(f"{target}: {value!r} has no part named '{step}'.")


def _by_default(annotation: Any) -> object:
    """What an optional part is before one of its fields is set; None for a part that has no defaults."""
    for option in get_args(annotation):
        if dataclasses.is_dataclass(option) and isinstance(option, type):
            try:
                return option()
            except TypeError:
                continue
    return None


def _item_type(annotation: Any, item: object) -> Any:
    arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis]
    return arguments[0] if len(arguments) == 1 else type(item)


def parse_value(text: str, annotation: Any, target: str, current: object = None) -> object:
    """The value that `text` means for a field of this type. Raises InputError naming what is needed."""
    try:
        return _parse(text.strip(), annotation)
    except (ValueError, TypeError) as error:
        hint = f" ({error})" if isinstance(error, TypeError) else ""
        raise InputError(
            f"cannot set {target} to '{text}': it takes {_describe(annotation)}{hint}. It is {current!r} now."
        ) from error


def _parse(text: str, annotation: Any) -> object:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _parse(text, arguments[0])
    if origin in (Union, types.UnionType):
        return _parse_union(text, arguments)
    if origin is Literal:
        return _parse_literal(text, arguments)
    if origin in (tuple, list) or annotation in (tuple, list):
        return _parse_items(text, origin or annotation, arguments)
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _parse_table(text, arguments)
    return _parse_plain(text, annotation)


def _parse_literal(text: str, options: tuple[Any, ...]) -> object:
    for option in options:
        if str(option) == text:
            return option
    raise ValueError(text)


def _parse_plain(text: str, annotation: Any) -> object:
    if annotation is bool:
        if text.lower() not in TRUE + FALSE:
            raise ValueError(text)
        return text.lower() in TRUE
    if annotation is int:
        return int(text)
    if annotation is float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    if annotation is Path:
        return Path(text).expanduser()
    if annotation in (str, object, Any):
        return text
    if annotation in (None, type(None)):
        if text.lower() not in NONE:
            raise ValueError(text)
        return None
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return annotation(text)
    if isinstance(annotation, type) and issubclass(annotation, Stage):
        raise TypeError("a stage is replaced in a recipe file, not on the command line")
    if dataclasses.is_dataclass(annotation):
        names = ", ".join(item.name for item in dataclasses.fields(annotation))
        raise TypeError(f"set one of its fields: {names}")
    raise TypeError("write a recipe file to change it")


def _parse_union(text: str, arguments: tuple[Any, ...]) -> object:
    """The first member that takes the text; narrow types before str, which takes everything."""
    order = [type(None), bool, int, float]
    ranked = sorted(arguments, key=lambda kind: order.index(kind) if kind in order else 9 if kind is str else 5)
    if bool in ranked and int in ranked and text in "01":
        ranked.remove(bool)
    failures: list[Exception] = []
    for kind in ranked:
        try:
            return _parse(text, kind)
        except (ValueError, TypeError) as error:
            failures.append(error)
    raise next((error for error in failures if isinstance(error, TypeError)), failures[-1])


def _parse_items(text: str, container: Any, arguments: tuple[Any, ...]) -> object:
    texts = _split(text)
    open_ended = not arguments or container is list or (len(arguments) == 2 and arguments[1] is Ellipsis)
    kinds = [arguments[0] if arguments else str] * len(texts) if open_ended else list(arguments)
    if len(kinds) != len(texts):
        raise ValueError(f"{len(kinds)} values")
    return container(_parse(item, kind) for item, kind in zip(texts, kinds, strict=True))


def _split(text: str) -> list[str]:
    """Items of `a,b,c`, or of a JSON list where an item holds a comma itself."""
    if text.startswith("["):
        return [item if isinstance(item, str) else json.dumps(item) for item in json.loads(text)]
    return [item.strip() for item in text.split(",")] if text else []


def _parse_table(text: str, arguments: tuple[Any, ...]) -> dict[str, object]:
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError("a JSON object")
    kind = arguments[1] if len(arguments) == 2 else object
    texts = {key: item if isinstance(item, str) else json.dumps(item) for key, item in table.items()}
    return {key: _parse(item, kind) for key, item in texts.items()}


def _describe(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(kind) for kind in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (tuple, list):
        if arguments and arguments[-1] is not Ellipsis and origin is tuple:
            return f"{len(arguments)} values with commas between ({', '.join(map(_describe, arguments))})"
        return f"values with commas between (each {_describe(arguments[0])})" if arguments else "values with commas"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a JSON object"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return "none" if annotation in (None, type(None)) else words.get(annotation, getattr(annotation, "__name__", "?"))
