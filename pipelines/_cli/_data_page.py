"""Shown records on a terminal, each with its picture beside the text, or as one page with everything inside."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llavaflow.pipelines._cli._picture import COLUMNS, as_blocks, as_data_url

if TYPE_CHECKING:
    from rich.console import Console

LEARNED = "bold green"


def as_text(console: Console, shown: list[dict[str, Any]], page: Path | None) -> None:
    """Print the records; pictures only where there are colours to draw them with."""
    if page is not None:
        console.print(f"written: {page}")
        return
    for record in shown:
        console.rule(f"record {record['record']}  id {record['id']}", align="left")
        for name, found in zip(record.get("images", []), record.get("images_found", []), strict=True):
            console.print(f"image: {name}{'' if found else '  (not found)'}", style="cyan", markup=False)
        if record["fault"]:
            console.print(record["fault"], style="red", markup=False)
        if "tokens" in record:
            cut = f", {record['cut_turns']} turns cut off" if record["cut_turns"] else ""
            console.print(f"{record['tokens']} tokens, {record['learned_tokens']} of them learned{cut}", style="dim")
        _print_beside(console, [data for data in record.get("pictures", []) if data], record["text"])


def _print_beside(console: Console, pictures: list[bytes], pieces: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    text = Text()
    for piece in pieces:
        text.append(piece["text"], style=LEARNED if piece["learned"] else "dim")
    if not pictures or console.color_system is None:
        console.print(text)
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=COLUMNS)
    grid.add_column()
    drawn = Text("\n").join(as_blocks(data) for data in pictures)
    grid.add_row(drawn, text)
    console.print(grid)


def as_page(shown: list[dict[str, Any]], title: str, template_name: str) -> str:
    """One self-contained page: the pictures are inside."""
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
    pictures = "".join(map(_picture, record.get("images", []), record.get("pictures", [])))
    fault = f"<p class=fault>{html.escape(record['fault'])}</p>" if record["fault"] else ""
    counts = f"<p>{record['tokens']} tokens, {record['learned_tokens']} learned</p>" if "tokens" in record else ""
    head = html.escape(f"record {record['record']} · id {record['id']} · {', '.join(record.get('images', []))}")
    return f"<article><h2>{head}</h2>{fault}{counts}{pictures}<pre>{pieces}</pre></article>"


def _picture(name: str, data: bytes | None) -> str:
    url = as_data_url(data) if data else None
    if url is None:
        return f"<p class=fault>{html.escape(name)} {'does not decode' if data else 'is not there'}</p>"
    return f'<img alt="{html.escape(name)}" src="{url}">'


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
