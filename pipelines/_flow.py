"""Prefect, and the only pipeline file that imports it: one flow run per run, one task per stage.

Imported only when something is to be made, because Prefect costs seconds. Tasks get names and fingerprints, never
objects; retries and caching are off because the store decides what is done. Prefect is what people watch, not what the
run stands on: if it fails, the run says so and goes on without it.
"""

from __future__ import annotations

import asyncio
import base64
import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.client.schemas.schedules import CronSchedule
from prefect.runner import Runner
from prefect.states import Completed, Failed
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from llavaflow.infra.errors import InputError
from llavaflow.infra.machine import parse
from llavaflow.infra.store import open_store
from llavaflow.pipelines._catalogue import find_recipe
from llavaflow.pipelines._facts import markdown_tables
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._run import Row, Run, prepare
from llavaflow.pipelines._settings import apply_settings
from llavaflow.stages._pictures import draw

PICTURE_BYTES = 300_000
_LIVE: dict[str, Run] = {}


def run_flow(run: Run) -> None:
    """Make what a prepared run lacks, as one Prefect flow run named after the recipe."""
    _LIVE[run.run_id] = run
    named = recipe_flow.with_options(name=run.recipe.name, flow_run_name=f"{run.recipe.name}-{run.run_id}")
    try:
        named(
            recipe=run.recipe.name,
            run_id=run.run_id,
            store=run.store.url,
            machine=run.machine.name,
            fingerprints={name: run.resolved[name].fingerprint for name in run.selected},
            return_state=True,
        )
    finally:
        del _LIVE[run.run_id]


def cron_schedule(cron: str, timezone: str | None) -> CronSchedule:
    """Raises InputError for a schedule or a zone that cannot be read."""
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        where, told = f" in {timezone}" if timezone else "", "; ".join(item["msg"] for item in error.errors())
        raise InputError(
            f"cannot read the schedule '{cron}'{where}: {told}. Write five fields, such as '0 3 * * 1'."
        ) from error


def serve_flow(recipe: Recipe, name: str, schedule: Any, parameters: dict[str, Any]) -> None:
    """Serve scheduled runs of a recipe until interrupted; each runs in a process of its own."""
    runner = _Runner(name=name, pause_on_shutdown=True, limit=1)
    # by module, so that the process of a run finds it wherever the package is installed
    runner.add_flow(
        recipe_flow.with_options(name=recipe.name),
        name=name,
        schedule=schedule,
        parameters=parameters,
        description=recipe.title,
        tags=["llavaflow"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    with suppress(KeyboardInterrupt):
        asyncio.run(runner.start())


class _Runner(Runner):
    """Prefect's runner, which SIGTERM (how a service manager stops it) ends as Ctrl-C does: its own handler forgets to
    wait for the shutdown, so the deployment stays active and the run that it has started is left alone."""

    def handle_sigterm(self, *_: Any) -> None:
        signal.raise_signal(signal.SIGINT)


@flow(name="llavaflow", retries=0, persist_result=False, validate_parameters=False)
def recipe_flow(
    recipe: str,
    run_id: str = "",
    store: str = ".llavaflow",
    machine: str = "cpu",
    stage: str | None = None,
    refresh: Sequence[str] = (),
    settings: Sequence[str] = (),
    fingerprints: dict[str, str] | None = None,
) -> State[Any]:
    """The stages of a recipe, each a task. `run_id` finds the run that this process has prepared; a deployment's
    scheduled run has none and prepares its own from the names."""
    run = _LIVE.get(run_id)
    if run is None:
        chosen = apply_settings(find_recipe(recipe), settings)
        run = prepare(chosen, open_store(store), parse(machine), stage=stage, refresh=refresh)
        _LIVE[run.run_id] = run
        run.log.setLevel("INFO")
    states: dict[str, State[Any]] = {}
    for name in run.selected:
        needed = [states[source] for source in run.recipe.inputs_of(name) if source in states]
        named = stage_task.with_options(name=name, task_run_name=name)
        states[name] = named(run.run_id, name, run.resolved[name].fingerprint, wait_for=needed, return_state=True)
        if run.failed:
            return Failed(message=f"{run.failed.name}: {run.failed.why}")
    return Completed(message=f"{len(states)} stages in the store")


@task(retries=0, persist_result=False, log_prints=False)
def stage_task(run_id: str, name: str, fingerprint: str) -> State[Any]:
    """Find or make one stage and show what it did."""
    run = _LIVE[run_id]
    row = run.attempt(name)
    if row.state == "failed":
        return Failed(message=row.why)
    try:
        _show(run, row)
    except Exception as error:
        run.log.warning("%s: its tables could not be shown in Prefect (%s)", name, error)
    return Completed(name="Found" if row.state == "found" else "Completed", message=f"{row.state} {fingerprint}")


def _show(run: Run, row: Row) -> None:
    """Prefect artifacts of a stage: counts, report, pictures, and where it lies."""
    assert row.artifact is not None
    key = re.sub(r"[^a-z0-9]+", "-", f"{run.recipe.name}-{row.name}".lower()).strip("-")
    counts = f"# {run.recipe.name}/{row.name}\n\n`{row.artifact.ref}`\n\n{markdown_tables(row.artifact.facts)}"
    create_markdown_artifact(counts, key=f"{key}-counts", description=f"What {row.name} made ({row.state})")
    folder = run.store.local_path(row.artifact)
    for report in sorted(folder.glob("*.md")):
        create_markdown_artifact(_with_pictures(report), key=f"{key}-{_slug(report)}", description=report.name)
    for page in sorted(folder.glob("*.html")):
        create_link_artifact(page.as_uri(), page.name, key=f"{key}-{_slug(page)}-page", description=str(page))
    for name, picture in draw(folder):
        create_image_artifact(_data_uri(picture), key=f"{key}-{name}", description=f"{row.name}: {name}")


def _slug(path: Path) -> str:
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")


def _with_pictures(report: Path) -> str:
    """A Markdown report with its own small pictures inside, because Prefect's page cannot open files."""

    def inline(match: re.Match[str]) -> str:
        picture = report.parent / match[2]
        usable = picture.is_file() and picture.stat().st_size <= PICTURE_BYTES
        return f"![{match[1]}]({_data_uri(picture.read_bytes())})" if usable else match[0]

    return re.sub(r"!\[([^\]]*)\]\(([^)\s:]+)\)", inline, report.read_text())


def _data_uri(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
