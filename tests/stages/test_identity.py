"""Plans: what a change rebuilds, why, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext, folder_context
from llavaflow.infra.errors import InputError
from llavaflow.infra.store import ArtifactStore, open_store
from llavaflow.stages._identity import Resolved, resolve
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Gather(Stage):
    kind: ClassVar[Kind] = "shards"
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fetch(Stage):
    kind: ClassVar[Kind] = "shards"
    table: Path | None = None
    limit: int = 10

    def run(self, ctx: RunContext) -> Artifact:
        (ctx.out / "data").write_text(ctx.fingerprint)
        return ctx.finish({})


@dataclass(frozen=True, kw_only=True)
class Sift(Fetch):
    source: Fetch
    thresholds: tuple[float, ...] = (0.2, 0.3)


@dataclass(frozen=True, kw_only=True)
class Fit(Fetch):
    kind: ClassVar[Kind] = "checkpoint"
    data: Sift
    rate: float = 1e-3


def chain(*, limit: int = 10, thresholds: tuple[float, ...] = (0.2, 0.3), rate: float = 1e-3) -> dict[str, Stage]:
    fetch = Fetch(limit=limit)
    sift = Sift(source=fetch, thresholds=thresholds)
    return {"fetch": fetch, "sift": sift, "fit": Fit(data=sift, rate=rate)}


def plan(root: Path, stages: Mapping[str, Stage], refresh: Collection[str] = ()) -> dict[str, Resolved]:
    return resolve(stages, open_store(root), recipe="toy", refresh=refresh)


def states(root: Path, stages: Mapping[str, Stage], refresh: Collection[str] = ()) -> list[str]:
    return [item.state for item in plan(root, stages, refresh).values()]


def build_all(root: Path, stages: Mapping[str, Stage], refresh: Collection[str] = ()) -> dict[str, Artifact]:
    """Run what is missing, as `pipeline run` does."""
    built: dict[str, Artifact] = {}
    for name, item in plan(root, stages, refresh).items():
        built[name] = item.artifact or _run(open_store(root), item, stages, built)
    return built


def _run(store: ArtifactStore, item: Resolved, stages: Mapping[str, Stage], built: Mapping[str, Artifact]) -> Artifact:
    inputs = {stages[source]: built[source] for source in item.inputs.values()}
    base = folder_context(Path(store.url), item.stage, inputs, generation=item.generation)
    assert base.fingerprint == item.fingerprint
    return item.stage.run(replace(base, recipe="toy", stage=item.name, identity=item.identity))


def test_a_new_recipe_is_missing_and_a_built_one_is_built(tmp_path: Path) -> None:
    first = plan(tmp_path, chain())
    assert [item.state for item in first.values()] == ["missing"] * 3
    assert first["fetch"].why == "never built"
    assert first["fit"].why == "never built; waits for sift (missing)"
    build_all(tmp_path, chain())
    assert states(tmp_path, chain()) == ["built"] * 3
    assert all(item.why == "" and item.artifact for item in plan(tmp_path, chain()).values())


def test_fingerprints_are_known_before_anything_is_built(tmp_path: Path) -> None:
    before = {name: item.fingerprint for name, item in plan(tmp_path, chain()).items()}
    assert {name: artifact.fingerprint for name, artifact in build_all(tmp_path, chain()).items()} == before


def test_a_changed_setting_rebuilds_what_follows_and_nothing_before(tmp_path: Path) -> None:
    build_all(tmp_path, chain())
    changed = plan(tmp_path, chain(thresholds=(0.2, 0.5)))
    assert [item.state for item in changed.values()] == ["built", "stale", "stale"]
    assert changed["sift"].why == "thresholds[1] 0.3 -> 0.5"
    assert changed["fit"].why == "input data changed; waits for sift (stale)"
    assert states(tmp_path, chain(rate=2e-3)) == ["built", "built", "stale"]


def test_a_version_that_is_bumped_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_all(tmp_path, chain())
    monkeypatch.setattr(Sift, "version", "2")
    assert plan(tmp_path, chain())["sift"].why == "version 1 -> 2"


def test_going_back_to_old_settings_finds_the_old_artifact(tmp_path: Path) -> None:
    first = build_all(tmp_path, chain())
    build_all(tmp_path, chain(rate=5.0))
    assert plan(tmp_path, chain())["fit"].artifact == first["fit"]


def test_equal_stages_under_another_name_or_recipe_share_the_artifact(tmp_path: Path) -> None:
    built = build_all(tmp_path, chain())
    other = resolve({"get": Fetch()}, open_store(tmp_path), recipe="other")
    assert other["get"].artifact == built["fetch"]


def test_a_damaged_artifact_is_missing_and_says_what_is_wrong(tmp_path: Path) -> None:
    built = build_all(tmp_path, chain())
    (Path(built["sift"].uri) / "data").unlink()
    found = plan(tmp_path, chain())["sift"]
    assert found.state == "missing" and found.why == "half-written: data is missing"


def test_a_refresh_asks_for_a_new_generation_and_offers_the_old_one(tmp_path: Path) -> None:
    first = build_all(tmp_path, chain())
    asked = plan(tmp_path, chain(), ["fetch"])
    assert [item.state for item in asked.values()] == ["stale"] * 3
    assert asked["fetch"].why == "generation 0 -> 1"
    assert asked["fetch"].previous == first["fetch"] and asked["sift"].previous == first["sift"]
    second = build_all(tmp_path, chain(), ["fetch"])
    assert second["fetch"].generation == 1
    assert states(tmp_path, chain()) == ["built"] * 3
    assert plan(tmp_path, chain())["fetch"].artifact == second["fetch"]
    assert plan(tmp_path, chain(), ["fetch"])["fetch"].generation == 2


def test_a_killed_refresh_goes_on_with_the_generation_it_began(tmp_path: Path) -> None:
    build_all(tmp_path, chain())
    assert plan(tmp_path, chain(), ["fetch"])["fetch"].generation == 1
    assert plan(tmp_path, chain(), ["fetch"])["fetch"].generation == 1


def test_a_refresh_of_what_was_never_built_builds_it(tmp_path: Path) -> None:
    assert plan(tmp_path, chain(), ["fetch"])["fetch"].generation == 0


def test_results_under_other_rules_are_not_carried_over(tmp_path: Path) -> None:
    build_all(tmp_path, chain())
    assert plan(tmp_path, chain(thresholds=(0.9,)))["sift"].previous is None
    assert plan(tmp_path, chain(limit=11))["sift"].previous is None


def test_an_outside_file_counts_by_content_and_not_by_name(tmp_path: Path) -> None:
    table, renamed = tmp_path / "a.csv", tmp_path / "b.csv"
    for path in (table, renamed):
        path.write_text("url")
    stages = {"fetch": Fetch(table=table)}
    build_all(tmp_path / "store", stages)
    assert states(tmp_path / "store", {"fetch": Fetch(table=renamed)}) == ["built"]
    table.write_text("url\nmore")
    found = plan(tmp_path / "store", stages)["fetch"]
    assert found.why == "outside file table changed" and found.previous is not None


def test_an_outside_file_that_is_not_there_is_named_with_its_field(tmp_path: Path) -> None:
    found = plan(tmp_path, {"fetch": Fetch(table=Path("/nowhere/x"))})["fetch"]
    assert found.state == "missing"
    assert found.absent == ("fetch.table: /nowhere/x",)
    assert "fetch.table: /nowhere/x is not there" in found.why


def test_of_many_outside_files_that_are_not_there_two_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    stage = Gather(folders=tuple(Path(f"/nowhere/{name}") for name in "abcd"))
    found = plan(tmp_path, {"gather": stage})["gather"]
    assert len(found.absent) == 4
    assert found.why.startswith(
        "gather.folders[0]: /nowhere/a is not there; gather.folders[1]: /nowhere/b is not there"
    )
    assert "2 more outside files are not there" in found.why


def test_an_input_that_the_recipe_does_not_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sift\.source holds a Fetch that is not a stage of the recipe"):
        plan(tmp_path, {"sift": Sift(source=Fetch())})


def test_planning_imports_nothing_heavy() -> None:
    code = "import sys, llavaflow.stages._identity; print(*{'torch', 'pyarrow', 'boto3', 'ray'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""
