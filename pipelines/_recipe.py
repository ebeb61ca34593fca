"""Recipe: a name and an ordered set of named stages, as a plain value.

A variant is a base with some fields replaced. Stages hold each other as field values, so replacing one must rebuild
every stage that holds it; `Recipe.replace` does that and keeps what is untouched identical.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from llavaflow.infra.errors import unknown
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to run: stages by name, in order.

    notes    what a reader should know before running it
    sources  where numbers come from: `finetune.learning_rate` -> script, card or paper
    """

    name: str
    stages: Mapping[str, Stage]
    title: str = ""
    notes: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", MappingProxyType(dict(self.stages)))
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    def stage(self, name: str) -> Stage:
        """A stage by name. Raises InputError with the nearest names when there is none."""
        if name not in self.stages:
            raise unknown("stage", name, self.stages, f"recipe {self.name}")
        return self.stages[name]

    def name_of(self, stage: Stage) -> str:
        """The name under which a stage, or one equal to it, stands in this recipe."""
        for name, known in self.stages.items():
            if known is stage or known == stage:
                return name
        raise unknown("stage", stage.type_name(), self.stages, f"recipe {self.name}")

    def inputs_of(self, name: str) -> list[str]:
        """The names of the stages that a stage takes as inputs, each once."""
        held = self.stage(name).inputs().values()
        return list(dict.fromkeys(self.name_of(stage) for stage in held))

    def needed_for(self, *names: str) -> list[str]:
        """The named stages and everything that they need, inputs before those who take them."""
        ordered: dict[str, None] = {}

        def visit(name: str) -> None:
            for source in self.inputs_of(name):
                if source not in ordered:
                    visit(source)
            ordered[name] = None

        for name in names:
            visit(name)
        return list(ordered)

    def selected(self, *, stage: str | None = None, only: str | None = None, refresh: Iterable[str] = ()) -> list[str]:
        """The stages of a run: `only` alone, `stage` with what it needs, or all. InputError for an unknown name."""
        for name in filter(None, (stage, only, *refresh)):
            self.stage(name)
        return [only] if only else self.needed_for(*([stage] if stage else self.stages))

    def replace(self, changes: Mapping[str, Mapping[str, object]], **fields: Any) -> Self:
        """This recipe with fields of stages replaced, and every stage that holds a replaced stage rebuilt.

        `changes` maps a stage name to its new field values; `fields` are those of the recipe itself. A number that is
        changed loses its source, unless new sources are given.
        """
        from llavaflow.pipelines._flat import flat_settings

        made = self._rebuilt(lambda name, stage, renew: _renew_fields(stage, renew, changes.get(name, {})), fields)
        if "sources" in fields or not self.sources:
            return made
        old, new = flat_settings(self), flat_settings(made)
        still = {path: text for path, text in self.sources.items() if path in new and old.get(path) == new[path]}
        return dataclasses.replace(made, sources=still)

    def swap(self, others: Mapping[str, Stage]) -> Self:
        """This recipe with whole stages replaced by others, and every stage that holds one of them rebuilt."""
        return self._rebuilt(lambda name, stage, renew: others.get(name) or _renew_fields(stage, renew, {}), {})

    def _rebuilt(self, make: Callable[[str, Stage, Callable[[Any], Any]], Stage], fields: Mapping[str, Any]) -> Self:
        """`make` gives the new stage for a name and its old stage; it is asked once for each."""
        rebuilt: dict[int, Stage] = {}

        def renew(value: Any) -> Any:
            if not isinstance(value, Stage):
                return _map(value, renew)
            if id(value) not in rebuilt:
                name = next((name for name, stage in self.stages.items() if stage is value or stage == value), "")
                rebuilt[id(value)] = make(name, value, renew)
            return rebuilt[id(value)]

        stages = {name: renew(stage) for name, stage in self.stages.items()}
        return dataclasses.replace(self, stages=stages, **fields)


def _map(value: Any, renew: Callable[[Any], Any]) -> Any:
    """A field value with `renew` applied inside it; the value itself when nothing changed."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _renew_fields(value, renew, {})
    if isinstance(value, (list, tuple)):
        items = [renew(item) for item in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    if isinstance(value, Mapping):
        table = {key: renew(item) for key, item in value.items()}
        return value if all(table[key] is item for key, item in value.items()) else table
    return value


def _renew_fields(value: Any, renew: Callable[[Any], Any], changes: Mapping[str, object]) -> Any:
    old = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    new = {name: renew(item) for name, item in {**old, **changes}.items()}
    changed = {name: item for name, item in new.items() if name not in old or item is not old[name]}
    return dataclasses.replace(value, **changed) if changed else value
