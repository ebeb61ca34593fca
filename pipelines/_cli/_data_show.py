"""`pipeline data show`: records as the model will see them, learned text coloured, on the terminal or as a page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llavaflow.pipelines._cli._data_check import image_rule, load_tokenizer, max_length_option
from llavaflow.pipelines._cli._data_open import opened
from llavaflow.pipelines._cli._data_page import as_page, as_text
from llavaflow.pipelines._cli._data_read import prepare_outs
from llavaflow.pipelines._cli._options import emit, json_option, store_option

if TYPE_CHECKING:
    from llavaflow.datasets._records import Images, Records
    from llavaflow.infra.store import ArtifactStore
    from llavaflow.stages._check import Rules

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("file")
@click.option("-n", "count", type=click.IntRange(min=0), default=5, show_default=True, help="How many records.")
@click.option(
    "--from", "start", type=click.IntRange(min=0), default=0, show_default=True, help="First record, counted from 0."
)
@click.option("--images", type=FILE, help="Folder that image paths start from, for a set without images of its own.")
@click.option("--template", "template_name", default="v1", show_default=True, help="Conversation template.")
@click.option("--tokenizer", metavar="DIR", help="Tokenizer folder or name: colours the very tokens that have labels.")
@max_length_option("Token limit (with --tokenizer).")
@click.option("--image-tokens", default="576", show_default=True, help="Tokens of one image (with --tokenizer).")
@click.option("--html", "page", type=FILE, metavar="OUT", help="Write a page with the images instead.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@store_option
@json_option
def show(
    file: str,
    count: int,
    start: int,
    images: Path | None,
    template_name: str,
    tokenizer: str | None,
    max_length: int,
    image_tokens: str,
    page: Path | None,
    force: bool,
    store: ArtifactStore,
    as_json: bool,
) -> None:
    """Show records of FILE as the model sees them; what it learns from is coloured.

    FILE is LLaVA JSON, a parquet or webdataset shards, or an artifact of training data, also by its name
    (llava15-tiny/mix).
    """
    from llavaflow.models.templates import template
    from llavaflow.stages._check import Rules

    template(template_name)
    rule = image_rule(image_tokens)
    records = opened(file, images, store)
    if page is not None:
        prepare_outs([page], force, records.path)
    rules = Rules(
        template=template_name,
        max_length=max_length,
        image_tokens=rule,
        images=records.images,
        tokenizer=load_tokenizer(tokenizer),
    )
    shown = list(_shown(records, start, count, rules))
    if page is not None:
        page.write_text(as_page(shown, records.path.name, template_name), "utf-8")
    document = [{key: value for key, value in record.items() if key != "pictures"} for record in shown]
    emit(document, as_json, lambda console: as_text(console, shown, page))


def _shown(records: Records, start: int, count: int, rules: Rules) -> Iterator[dict[str, Any]]:
    """Each record as pieces of the joined text, `learned` or not; a record of wrong form with its fault."""
    from llavaflow.stages._check_record import Fault, name_of, parse

    for number, raw in enumerate(islice(records.rows(), start, start + count), start):
        try:
            record = parse(raw, number)
        except Fault as fault:
            yield {"record": number, "id": name_of(raw, number), "fault": f"{fault.kind}: {fault}", "text": []}
            continue
        pictures = [_picture(records.images, name) for name in record.images]
        yield {
            "record": number,
            "id": record.id,
            "images": list(record.images),
            "images_found": [data is not None for data in pictures],
            "pictures": pictures,
            **_text(record.turns, pictures, rules),
        }


def _picture(images: Images | None, name: str) -> bytes | None:
    return images.load(name) if images else None


def _text(turns: list[tuple[str, str]], pictures: list[bytes | None], rules: Rules) -> dict[str, Any]:
    """The joined text in pieces and, with a tokenizer, how many tokens there are and have a label."""
    from llavaflow.datasets._images import Probe, probe
    from llavaflow.models.labels import check
    from llavaflow.models.templates import template
    from llavaflow.stages._check import tokens_of

    form = template(rules.template)
    refused = check(turns, len(pictures), form)
    if refused:
        return {"fault": f"{refused.reason}: {refused.detail}", "text": []}
    if rules.tokenizer is None:
        pieces = [{"text": piece.text, "learned": piece.supervised} for piece in form.segments(turns)]
        return {"fault": None, "text": pieces}
    from llavaflow.pipelines._cli._data_tokens import labelled

    looks = [probe(data, decode=False) if data else Probe() for data in pictures]
    return labelled(turns, [tokens_of(rules.image_tokens, look) for look in looks], rules)
