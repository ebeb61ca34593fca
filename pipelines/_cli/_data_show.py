"""`pipeline data show`: records as the model will see them, learned text coloured, on the terminal or as a page."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llavaflow.infra.errors import InputError
from llavaflow.pipelines._cli._data_read import refuse_existing
from llavaflow.pipelines._cli._options import emit, json_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.datasets._images import ImageFolder

FILE = click.Path(path_type=Path)
LEARNED = "bold green"


@click.command()
@click.argument("file", type=FILE)
@click.option("-n", "count", default=5, show_default=True, help="How many records.")
@click.option("--from", "start", default=0, show_default=True, help="First record, counted from 0.")
@click.option("--images", type=FILE, help="Folder that image paths start from.")
@click.option("--template", "template_name", default="v1", show_default=True, help="Conversation template.")
@click.option("--html", "page", type=FILE, metavar="OUT", help="Write a page with the images instead.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@json_option
def show(
    file: Path,
    count: int,
    start: int,
    images: Path | None,
    template_name: str,
    page: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Show records of the LLaVA JSON FILE as the model sees them; what it learns from is coloured."""
    from llavaflow.datasets._images import ImageFolder
    from llavaflow.datasets.llava_json import raw_records
    from llavaflow.models.templates import template

    if not file.is_file():
        raise InputError(f"{file} is not a file. Give a LLaVA JSON list, JSON lines or parquet file.")
    template(template_name)
    folder = ImageFolder(images) if images else None
    shown = list(_shown(islice(raw_records(file), start, start + count), template_name, folder, start))
    if page is not None:
        refuse_existing(page, force)
        page.write_text(_page(shown, file.name, template_name), "utf-8")
    emit(shown, as_json, lambda console: _render(console, shown, page))


def _shown(rows: Iterator[Any], template_name: str, folder: ImageFolder | None, start: int) -> Iterator[dict[str, Any]]:
    """Each record as pieces of the joined text, `learned` or not; a record of wrong form with its fault."""
    from llavaflow.models.labels import check
    from llavaflow.models.templates import template
    from llavaflow.stages._check_record import Fault, name_of, parse

    form = template(template_name)
    for number, raw in enumerate(rows, start):
        try:
            record = parse(raw, number)
        except Fault as fault:
            yield {"record": number, "id": name_of(raw, number), "fault": f"{fault.kind}: {fault}", "text": []}
            continue
        refused = check(record.turns, len(record.images), form)
        pieces = [] if refused else form.segments(record.turns)
        found = [folder.find(name) for name in record.images] if folder else []
        yield {
            "record": number,
            "id": record.id,
            "images": list(record.images),
            "files": [str(path) if path else None for path in found],
            "fault": f"{refused.reason}: {refused.detail}" if refused else None,
            "text": [{"text": piece.text, "learned": piece.supervised} for piece in pieces],
        }


def _render(console: Console, shown: list[dict[str, Any]], page: Path | None) -> None:
    from rich.text import Text

    if page is not None:
        console.print(f"written: {page}")
        return
    for record in shown:
        console.rule(f"record {record['record']}  id {record['id']}", align="left")
        for name in record.get("images", []):
            console.print(f"image: {name}", style="cyan", markup=False)
        if record["fault"]:
            console.print(record["fault"], style="red", markup=False)
        line = Text()
        for piece in record["text"]:
            line.append(piece["text"], style=LEARNED if piece["learned"] else "dim")
        console.print(line)


def _page(shown: list[dict[str, Any]], title: str, template_name: str) -> str:
    """One self-contained page: the images are inside."""
    body = "\n".join(_article(record) for record in shown)
    return (
        '<!doctype html><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>Template {html.escape(template_name)}; "
        f"<b>green</b> is what the model learns to write.</p>\n{body}\n"
    )


def _article(record: dict[str, Any]) -> str:
    pieces = "".join(
        f"<b>{html.escape(piece['text'])}</b>" if piece["learned"] else html.escape(piece["text"])
        for piece in record["text"]
    )
    pictures = "".join(_picture(path) for path in record.get("files", []) if path)
    fault = f"<p class=fault>{html.escape(record['fault'])}</p>" if record["fault"] else ""
    head = html.escape(f"record {record['record']} · id {record['id']} · {', '.join(record.get('images', []))}")
    return f"<article><h2>{head}</h2>{fault}{pictures}<pre>{pieces}</pre></article>"


def _picture(path: str) -> str:
    kind = Path(path).suffix.lstrip(".").lower().replace("jpg", "jpeg")
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return f'<img alt="" src="data:image/{kind};base64,{data}">'


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #333 }
h2 { font-size: 1rem; font-weight: 600 }
article { border-top: 1px solid #ddd; padding: 1rem 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; color: #777 }
b { color: #116329; background: #dafbe1 }
img { max-width: 20rem; max-height: 20rem; float: right; margin: 0 0 1rem 1rem }
.fault { color: #b42318 }
article::after { content: ""; display: block; clear: both }
"""
