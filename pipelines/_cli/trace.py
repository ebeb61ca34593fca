"""Follow single records: from a URL to the scores it fed, from a sample back to where it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.pipelines._cli._options import emit, json_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.artifact import Artifact
    from llavaflow.infra.store import ArtifactStore
    from llavaflow.stages._trace import Ledger, Row, Trace

SHOWN = 20


@click.command()
@click.option("--url", help="Start at every record of this URL.")
@click.option("--sample", metavar="ID", help="Start at a record: its id, or FINGERPRINT:ID as indexes name parents.")
@click.option("--image", metavar="SHA", help="Start at every record whose bytes have this SHA-256.")
@click.option("--artifact", metavar="REF", help="Every URL that fed an artifact; with --sample: look only there.")
@click.option("--verify/--no-verify", default=True, help="Read every record found and compare its SHA-256.")
@store_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    url: str | None,
    sample: str | None,
    image: str | None,
    artifact: str | None,
    verify: bool,
    store: ArtifactStore,
    as_json: bool,
) -> None:
    """Trace records in both directions.

    Prints where the records lie (file and row, compared with their SHA-256), everything they were made from,
    everything made from them, and the checkpoints and scores that they fed. Exits 1 when a record's bytes are not
    what its index says.
    """
    from llavaflow.stages._trace import Ledger

    if sum(value is not None for value in (url, sample, image)) + (artifact is not None and sample is None) != 1:
        raise click.UsageError(
            "give one of --url, --sample, --image, --artifact (--sample and --artifact may go together)."
        )
    ledger = Ledger(store)
    if artifact is not None and sample is None:
        _trace_artifact(ledger, artifact, as_json)
        return
    found = ledger.trace(_matches(ledger, url, sample, image, artifact), verify=verify)
    emit(_document(found), as_json, lambda console: _render(console, found))
    if any(row.verified is False for row in (*found.matches, *found.parents, *found.children)):
        click.echo("error: some records are not what their index says (marked 'damaged')", err=True)
        ctx.exit(1)


def _matches(ledger: Ledger, url: str | None, sample: str | None, image: str | None, artifact: str | None) -> list[Row]:
    if url is not None:
        return _some(ledger, ledger.select("url", url), f"the URL {url}")
    if image is not None:
        return _some(ledger, ledger.select("sha256", image.lower()), f"the SHA-256 {image}")
    assert sample is not None
    fingerprint, _, name = sample.partition(":")
    if fingerprint in ledger.indexed:
        rows = ledger.select("id", name, fingerprint)
    elif artifact is not None:
        rows = ledger.named(sample, _reference(ledger, artifact).fingerprint)
    else:
        rows = ledger.named(sample)
    return _some(ledger, rows, f"the id {sample}")


def _reference(ledger: Ledger, text: str) -> Artifact:
    from llavaflow.infra.reference import find_reference

    return find_reference(text, ledger.store).artifact


def _some(ledger: Ledger, rows: list[Row], what: str) -> list[Row]:
    if rows:
        return rows
    stages = ", ".join(sorted({f"{item.recipe}/{item.stage}" for item in ledger.indexed.values()})) or "none yet"
    where = f"the indexes of {len(ledger.indexed)} artifacts in {ledger.store.url}: {stages}"
    raise InputError(f"no record has {what}. Looked in {where}.")


def _trace_artifact(ledger: Ledger, reference: str, as_json: bool) -> None:
    artifact = _reference(ledger, reference)
    records, urls = ledger.urls(artifact)
    document: Json = {"artifact": artifact.ref, "records": records, "urls": urls}

    def render(console: Console) -> None:
        console.print(f"{artifact.ref} ({artifact.recipe}/{artifact.stage}): {records} records, {len(urls)} URLs")
        for url in urls[:SHOWN]:
            console.print(f"  {url}", markup=False)
        _more(console, len(urls))

    emit(document, as_json, render)


def _document(found: Trace) -> dict[str, Json]:
    rows = {"matches": found.matches, "parents": found.parents, "children": found.children}
    fed = [{"ref": a.ref, "kind": a.kind, "recipe": a.recipe, "stage": a.stage, "uri": a.uri} for a in found.fed]
    return {name: [row.as_json() for row in group] for name, group in rows.items()} | {"fed": fed}


def _render(console: Console, found: Trace) -> None:
    from rich.table import Table

    for title, rows in (
        ("found", found.matches),
        ("made from", found.parents),
        ("went into", found.children),
    ):
        console.print(f"[bold]{title} ({len(rows)})[/bold]")
        if not rows:
            continue
        table = Table(box=None, pad_edge=False)
        for column in ("artifact", "id", "file : row", "sha256", "url", "dropped"):
            table.add_column(column, overflow="fold")
        for row in rows[:SHOWN]:
            place = f"{row.file} : {row.row}" if row.file else "-"
            where = f"{row.artifact.recipe}/{row.artifact.stage} {row.artifact.fingerprint[:8]}"
            table.add_row(where, row.id, place, _seal(row), row.url or "", row.dropped or "")
        console.print(table)
        _more(console, len(rows))
        console.print()
    console.print(f"[bold]fed ({len(found.fed)})[/bold]")
    for artifact in found.fed:
        console.print(f"  {artifact.recipe}/{artifact.stage}  {artifact.ref}")


def _seal(row: Row) -> str:
    words = {True: "as recorded", False: "damaged", None: ""}
    return f"{(row.sha256 or '')[:8]} {words[row.verified]}".strip()


def _more(console: Console, count: int) -> None:
    if count > SHOWN:
        console.print(f"  ... and {count - SHOWN} more; --json lists all")
