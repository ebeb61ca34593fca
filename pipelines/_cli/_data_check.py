"""`pipeline data check`: the gate before GPU time, on a LLaVA JSON file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llavaflow.infra.errors import InputError
from llavaflow.pipelines._cli._data_read import refuse_existing, write_records
from llavaflow.pipelines._cli._options import emit, json_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.artifact import Json
    from llavaflow.stages._check import Gate
    from llavaflow.stages._check_record import Finding

FILE = click.Path(path_type=Path)
EXAMPLES_PER_KIND = 5
EXIT_WITH_ERRORS = 2


class Explained(click.Command):
    """A command whose help ends with every kind of error and warning."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from llavaflow.stages._check_record import ERRORS, WARNINGS

        for title, kinds in (("Errors", ERRORS), ("Warnings", WARNINGS)):
            with formatter.section(title):
                formatter.write_dl(list(kinds.items()))


@click.command(cls=Explained)
@click.argument("file", type=FILE)
@click.option("--images", type=FILE, help="Folder that image paths start from; without it images are not looked at.")
@click.option("--template", "template_name", default="v1", show_default=True, help="Conversation template.")
@click.option("--tokenizer", metavar="DIR", help="Tokenizer folder or name: exact lengths and a labels dry run.")
@click.option("--max-length", default=2048, show_default=True, help="Token limit of a sample, images included.")
@click.option("--image-tokens", default=576, show_default=True, help="Tokens of one image.")
@click.option("--against", type=FILE, multiple=True, help="Evaluation questions file or images folder; repeatable.")
@click.option("--quarantine", type=FILE, metavar="OUT", help="Write every record with an error here.")
@click.option("--fix", type=FILE, metavar="OUT", help="Write a repaired copy, with OUT.changes.jsonl beside it.")
@click.option("--force", is_flag=True, help="Replace output files that exist.")
@json_option
def check(
    file: Path,
    images: Path | None,
    template_name: str,
    tokenizer: str | None,
    max_length: int,
    image_tokens: int,
    against: tuple[Path, ...],
    quarantine: Path | None,
    fix: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Check the LLaVA JSON FILE (list, lines or parquet); exit 2 when a record has an error.

    The file itself is never changed: --fix mends a copy, with a record of every change, and puts what it cannot mend
    into OUT.quarantine.jsonl.
    """
    from llavaflow.datasets._images import ImageFolder
    from llavaflow.datasets.llava_json import raw_records
    from llavaflow.models.templates import template
    from llavaflow.stages._check import Gate, Rules, census
    from llavaflow.stages._check_leaks import EvaluationSets

    if not file.is_file():
        raise InputError(f"{file} is not a file. Give a LLaVA JSON list, JSON lines or parquet file.")
    if images is not None and not images.is_dir():
        raise InputError(f"{images} is not a folder. Give the folder that the image paths start from.")
    template(template_name)
    for out in (quarantine, fix):
        if out is not None:
            refuse_existing(out, force)
    folder = ImageFolder(images) if images else None
    gate = Gate(
        rules=Rules(
            template=template_name,
            max_length=max_length,
            image_tokens=image_tokens,
            images=folder,
            tokenizer=_tokenizer(tokenizer),
            against=EvaluationSets(against, folder) if against else None,
        )
    )
    document = _document(gate, raw_records(file), quarantine)
    document["lengths"] = {"exact": tokenizer is not None, **census(gate.lengths)}
    if fix is not None:
        from llavaflow.stages._check_fix import write_fixed

        document["fixed"] = write_fixed(file, fix, gate.rules)
    emit(document, as_json, lambda console: _render(console, document))
    return EXIT_WITH_ERRORS if document["errors"] else 0


def _tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"no tokenizer at {name}: {str(error).splitlines()[0]}") from error


def _document(gate: Gate, rows: Iterator[Any], quarantine: Path | None) -> dict[str, Any]:
    """Run the gate and count; examples are the first few of every kind."""
    errors: Counter[str] = Counter()
    warnings: Counter[str] = Counter()
    examples: list[dict[str, Json]] = []
    bad: list[dict[str, Json]] = []
    samples = 0
    for checked in gate.examine(rows):
        samples += 1
        for finding in checked.findings:
            counts = errors if finding.is_error else warnings
            counts[finding.kind] += 1
            if counts[finding.kind] <= EXAMPLES_PER_KIND:
                examples.append(_example(finding))
        if quarantine is not None and checked.errors:
            bad += [_example(finding) for finding in checked.errors]
    if quarantine is not None:
        write_records(quarantine, bad)
    return {"samples": samples, "errors": dict(errors), "warnings": dict(warnings), "examples": examples}


def _example(finding: Finding) -> dict[str, Json]:
    level = "error" if finding.is_error else "warning"
    return {"record": finding.record, "id": finding.id, "kind": finding.kind, "level": level, "detail": finding.detail}


def _render(console: Console, document: dict[str, Any]) -> None:
    from llavaflow.stages._check_record import ERRORS, WARNINGS

    meaning = {**ERRORS, **WARNINGS}
    console.print(f"{document['samples']:,} records; lengths {json.dumps(document['lengths'])}")
    for title, colour in (("errors", "red"), ("warnings", "yellow")):
        for kind, count in sorted(document[title].items()):
            console.print(f"[{colour}]{title[:-1]}[/] {count:,} {kind}: {meaning[kind]}")
    for example in document["examples"]:
        told = f"  record {example['record']} (id {example['id']}): {example['kind']} {example['detail']}"
        console.print(told, markup=False)
    if not document["errors"]:
        console.print("[green]no errors[/]")
    if "fixed" in document:
        console.print(f"fixed copy: {json.dumps(document['fixed'])}")
