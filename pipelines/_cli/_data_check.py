"""`pipeline data check`: the gate before GPU time, on training data in any form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llavaflow.infra.errors import InputError, unknown
from llavaflow.pipelines._cli._data_open import opened
from llavaflow.pipelines._cli._data_read import prepare_outs, write_records
from llavaflow.pipelines._cli._options import Command, emit, json_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.infra.artifact import Json
    from llavaflow.infra.store import ArtifactStore
    from llavaflow.models.images import ImageRule
    from llavaflow.stages._check import Gate
    from llavaflow.stages._check_record import Finding

FILE = click.Path(path_type=Path)
MAX_LENGTH = 2048
EXAMPLES_PER_KIND = 5
EXIT_WITH_ERRORS = 2


class Explained(click.Command):
    """A command whose help ends with every kind of error and warning."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from llavaflow.stages._check_record import ERRORS, WARNINGS

        for title, kinds in (("Errors", ERRORS), ("Warnings", WARNINGS)):
            with formatter.section(title):
                formatter.write_dl(list(kinds.items()))


def max_length_option(told: str) -> Callable[[Command], Command]:
    """`--max-length`, which needs room for one token at least."""
    kind = click.IntRange(min=1)
    return click.option("--max-length", type=kind, default=MAX_LENGTH, show_default=True, help=told)


@click.command(cls=Explained)
@click.argument("file")
@click.option("--images", type=FILE, help="Folder that image paths start from; without it, only images inside FILE.")
@click.option("--template", "template_name", default="v1", show_default=True, help="Conversation template.")
@click.option("--tokenizer", metavar="DIR", help="Tokenizer folder or name: exact lengths and a labels dry run.")
@max_length_option("Token limit of a sample, images included.")
@click.option(
    "--image-tokens",
    default="576",
    show_default=True,
    metavar="N|RULE",
    help="Tokens of one image, or anyres-336 (LLaVA-1.6), anyres-384 (SigLIP): by the size of each.",
)
@click.option("--against", type=FILE, multiple=True, help="Evaluation questions file or images folder; repeatable.")
@click.option("--quarantine", type=FILE, metavar="OUT", help="Write every record with an error here.")
@click.option("--fix", type=FILE, metavar="OUT", help="Write a repaired copy, with OUT.changes.jsonl beside it.")
@click.option("--force", is_flag=True, help="Replace output files that exist.")
@store_option
@json_option
def check(
    file: str,
    images: Path | None,
    template_name: str,
    tokenizer: str | None,
    max_length: int,
    image_tokens: str,
    against: tuple[Path, ...],
    quarantine: Path | None,
    fix: Path | None,
    force: bool,
    store: ArtifactStore,
    as_json: bool,
) -> int:
    """Check the records of FILE; exit 2 when one has an error.

    FILE is LLaVA JSON, a parquet or webdataset shards, or an artifact of training data, also by its name
    (llava15-tiny/mix). It is never changed: --fix mends a copy, with a record of every change, and puts what it cannot
    mend into OUT.quarantine.jsonl.
    """
    from llavaflow.models.templates import template
    from llavaflow.stages._check import Gate, Rules, census
    from llavaflow.stages._check_fix import files_beside
    from llavaflow.stages._check_leaks import EvaluationSets

    template(template_name)
    rule = image_rule(image_tokens)
    records = opened(file, images, store)
    sides = [fix, *files_beside(fix)] if fix else []
    prepare_outs([*filter(None, [quarantine]), *sides], force, records.path, *against)
    gate = Gate(
        rules=Rules(
            template=template_name,
            max_length=max_length,
            image_tokens=rule,
            images=records.images,
            tokenizer=load_tokenizer(tokenizer),
            against=EvaluationSets(against, records.images) if against else None,
        )
    )
    document = {
        "form": records.form,
        "images_checked": records.images is not None,
        **count_findings(gate, records.rows(), quarantine),
    }
    document["lengths"] = {"exact": tokenizer is not None, **census(gate.lengths)}
    if fix is not None:
        from llavaflow.stages._check_fix import write_fixed

        document["fixed"] = write_fixed(records, fix, gate.rules)
    emit(document, as_json, lambda console: _render(console, document))
    return EXIT_WITH_ERRORS if document["errors"] else 0


def image_rule(text: str) -> int | ImageRule:
    """A number of tokens, or the rule of a name. Raises InputError for anything else."""
    from llavaflow.stages._check import IMAGE_RULES

    if text.isascii() and text.isdigit():
        return int(text)
    if text not in IMAGE_RULES:
        raise unknown("image rule", text, IMAGE_RULES, "stages/_check.py; a plain number will do too")
    return IMAGE_RULES[text]


def load_tokenizer(name: str | None) -> Any:
    """The tokenizer of a folder or hub name. Raises InputError when there is none."""
    if name is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"no tokenizer at {name}: {str(error).splitlines()[0]}") from error


def count_findings(gate: Gate, rows: Iterator[Any], quarantine: Path | None) -> dict[str, Any]:
    """Run the gate and count; examples are the first few of every kind. Records with an error go to `quarantine`."""
    errors: Counter[str] = Counter()
    warnings: Counter[str] = Counter()
    examples: list[dict[str, Json]] = []
    bad: list[dict[str, Json]] = []
    samples = 0
    for checked in gate.examine(rows):
        samples += 1
        if not checked.findings:
            continue
        for finding in checked.findings:
            counts = errors if finding.is_error else warnings
            counts[finding.kind] += 1
            if counts[finding.kind] <= EXAMPLES_PER_KIND:
                examples.append(_example(finding))
        if quarantine is not None and checked.errors:
            bad += [_example(finding) for finding in checked.errors]
    if not samples:
        raise InputError("there is no record to check: the file is empty. Is it whole?")
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
    if not document["images_checked"]:
        console.print("images were not looked at: --images FOLDER says where their paths start")
    if not document["errors"]:
        console.print("[green]no errors[/]")
    if "fixed" in document:
        console.print(f"fixed copy: {json.dumps(document['fixed'])}")
