"""Show one thing: an artifact, a recipe, a source, a mixture, a benchmark or a row of the model zoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from llavaflow.infra.artifact import Json
from llavaflow.pipelines._cli._options import emit, json_option, store_option
from llavaflow.pipelines._cli._show_mixture import is_mixture, mixture_document, render_mixture

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from llavaflow.infra.reference import Found
    from llavaflow.infra.store import ArtifactStore

# a document, and how to print it for a reader
Page = tuple[dict[str, Json], "Callable[[Console], None]"]
FILES_SHOWN = 12
LINE = 100


@click.command()
@click.argument("ref")
@click.option(
    "--verify", is_flag=True, help="Read every file of the artifact, and look for every parent of its records."
)
@store_option
@json_option
@click.pass_context
def command(ctx: click.Context, ref: str, verify: bool, store: ArtifactStore, as_json: bool) -> None:
    """Show REF: RECIPE, RECIPE/STAGE, KIND:FINGERPRINT, the place of an artifact, {source,mixture,benchmark,zoo}:NAME.

    For a source or a benchmark this prints the layout in which `--path` and `--gold` expect its official files.
    """
    head, _, name = ref.partition(":")
    pages: dict[str, Callable[[str], Page]] = {"source": _source, "benchmark": _benchmark, "zoo": _zoo}
    if head == "mixture" and is_mixture(name):
        document = mixture_document(name)
        emit(document, as_json, lambda console: render_mixture(console, document))
        return
    if head in pages:
        document, render = pages[head](name)
    elif _is_recipe(ref):
        document, render = _recipe(ref)
    else:
        document, render = _artifact(ref, store, verify)
    emit(document, as_json, render)
    faults = {"damaged": "files are not what the record says", "dangling": "parents of its records are in no index"}
    for name, text in faults.items():
        if document.get(name):
            click.echo(f"error: {len(document[name])} {text}, such as {document[name][0]}", err=True)
    if any(document.get(name) for name in faults):
        ctx.exit(1)


def _is_recipe(ref: str) -> bool:
    from pathlib import Path

    return ref.endswith(".py") or (not set(ref) & set(":/") and not Path(ref, "record.json").is_file())


def _artifact(ref: str, store: ArtifactStore, verify: bool) -> Page:
    from llavaflow.infra.reference import find_reference

    found = find_reference(ref, store)
    document: dict[str, Json] = {"ref": found.artifact.ref, "uri": found.artifact.uri, **found.record.as_json()}
    document["size"] = found.record.size
    if verify:
        document |= _verified(found)

    def render(console: Console) -> None:
        _title(console, document["ref"], f"{document['recipe']}/{document['stage']}", document["uri"])
        _table(console, "made", _made(document))
        _facts(console, document, found.path / "report.md")
        _table(console, "settings", _flat(document["settings"]))
        inputs = {
            path: f"{held['stage']}  {held['kind']}:{held['fingerprint']}" for path, held in document["inputs"].items()
        }
        _table(console, "inputs", inputs | document["outside"])
        shown = sorted(document["files"], key=lambda entry: -int(entry["size"]))[:FILES_SHOWN]
        title = f"files ({len(document['files'])}, {_bytes(document['size'])})"
        _table(console, title, {entry["path"]: _bytes(entry["size"]) for entry in shown})
        if verify and not document["damaged"] and not document["dangling"]:
            console.print("every file is as recorded, and every parent of its records exists")

    return document, render


def _facts(console: Console, document: dict[str, Json], report: Path) -> None:
    """What a stage has told: of an evaluation its report, with the published rows beside ours."""
    if document["kind"] == "scores" and report.is_file():
        from llavaflow.stages._report import print_report

        print_report(console, report.read_text(encoding="utf-8"))
        console.print(f"\nexamples and pictures: {report.with_suffix('.html')}\n", soft_wrap=True)
    else:
        _table(console, "facts", _flat(document["facts"]))


def _verified(found: Found) -> dict[str, Json]:
    """The files whose bytes are not as recorded, and the parents of its records that are nowhere."""
    from llavaflow.stages._trace import Ledger

    dangling = Ledger(found.store).dangling(found.artifact)
    return {"damaged": found.store.verify(found.artifact), "dangling": dangling}


def _made(document: dict[str, Json]) -> dict[str, Json]:
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(document["created"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {
        "stage type": f"{document['type']}, version {document['version']}, generation {document['generation']}",
        "created": f"{when}, in {document['seconds']:.1f} s, by run {document['run_id']}",
        "packages": ", ".join(f"{name} {version}" for name, version in document["packages"].items()),
    }


def _recipe(name: str) -> Page:
    from llavaflow.pipelines._catalogue import find_recipe
    from llavaflow.pipelines._flat import flat_settings

    recipe = find_recipe(name)
    settings = flat_settings(recipe)
    stages: list[Json] = [
        {"name": key, "type": stage.type_name(), "kind": stage.kind, "inputs": recipe.inputs_of(key)}
        for key, stage in recipe.stages.items()
    ]
    document: dict[str, Json] = {"recipe": name, "title": recipe.title, "notes": recipe.notes, "stages": stages}
    document |= {"settings": settings, "sources": dict(recipe.sources)}

    def render(console: Console) -> None:
        _title(console, name, recipe.title, recipe.notes)
        for key in recipe.stages:
            rows = {
                path.removeprefix(f"{key}."): value for path, value in settings.items() if path.startswith(f"{key}.")
            }
            notes = {path.removeprefix(f"{key}."): text for path, text in recipe.sources.items()}
            _table(console, key, rows, notes)

    return document, render


def _source(name: str) -> Page:
    from llavaflow.datasets._source import source

    found = source(name)
    document: dict[str, Json] = {
        "source": found.name,
        "title": found.title,
        "origin": list(found.origin),
        "licence": found.licence,
        "layout": found.layout,
        "rule": found.rule,
        "images": found.images,
        "prompt": found.prompt,
        "options": dict(found.options),
        "expected": dict(found.expected),
        "dropped": found.reasons(),
        "repairs": found.mendings(),
    }
    return document, lambda console: _card(console, document, ("options", "dropped", "repairs"))


def _benchmark(name: str) -> Page:
    from llavaflow.datasets.benchmarks._benchmark import load_benchmark
    from llavaflow.stages._report import published

    found = load_benchmark(name)
    document: dict[str, Json] = {
        "benchmark": found.name,
        "title": found.title,
        "layout": found.layout,
        "prompt": found.prompt,
        "rule": found.rule,
        "rule_source": found.source,
        "unit": found.unit,
        "judged": "by a judge: --reviews FILE or --judge MODEL" if found.judged else None,
        "upload": found.upload_form or None,
        "zoo_column": found.column,
        "published": published(found.column),
    }
    return document, lambda console: _card(console, document, ())


def _zoo(name: str) -> Page:
    from dataclasses import asdict

    from llavaflow.infra.errors import unknown
    from llavaflow.models.zoo import ZOO

    if name not in ZOO:
        raise unknown("row of the model zoo", name, ZOO, "models/zoo.py")
    row = ZOO[name]
    document: dict[str, Json] = {"zoo": name, **asdict(row)}
    if row.recipe and row.form != "delta":
        document["start_from_it"] = f"pipeline run {row.recipe} --from-zoo {name}"

    def render(console: Console) -> None:
        _card(console, {key: value for key, value in document.items() if key not in ("scores", "other")}, ())
        for key, title in (("scores", "published scores"), ("other", "published under other conditions")):
            rows = {column: _score(score) for column, score in document[key].items()}
            notes = {
                column: f"{score['rule']}; {score['harness']}; {score['source']}"
                for column, score in document[key].items()
            }
            _table(console, title, rows, notes)

    return document, render


def _score(score: dict[str, Json]) -> str:
    spread = score.get("spread")
    return f"{score['value']:g}" if spread is None else f"{score['value']:g} ± {spread:g}"


def _title(console: Console, *lines: str) -> None:
    console.print(f"[bold]{lines[0]}[/bold]")
    for line in lines[1:]:
        if line:
            console.print(line, markup=False, soft_wrap=True)
    console.print()


def _card(console: Console, document: dict[str, Json], tables: tuple[str, ...]) -> None:
    """A document of texts and tables: one-liners first, then what needs more room under its own heading."""
    texts = {key: _text(value) for key, value in document.items() if key not in tables and not isinstance(value, dict)}
    short = {key: text for key, text in texts.items() if text and "\n" not in text and len(text) < LINE}
    _table(console, "", {key.replace("_", " "): text for key, text in short.items()})
    for key, value in document.items():
        if key in tables or isinstance(value, dict):
            _table(console, key.replace("_", " "), _flat(value))
        elif texts[key] and key not in short:
            console.print(f"[bold]{key.replace('_', ' ')}[/bold]")
            console.print(texts[key] + "\n", markup=False, soft_wrap=True)


def _text(value: Json) -> str:
    if value is None:
        return ""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value).strip("\n")


def _table(console: Console, title: str, rows: dict[str, Json], notes: dict[str, str] | None = None) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    if title:
        console.print(f"[bold]{title}[/bold]")
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        table.add_row(Text(key), Text(str(value)), Text((notes or {}).get(key, ""), style="dim"))
    console.print(table)
    console.print()


def _flat(value: Json) -> dict[str, Json]:
    from llavaflow.infra.identity import flatten

    return {path: item for path, item in flatten(value).items() if path}


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
