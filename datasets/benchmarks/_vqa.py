"""Open questions with ten human answers: gold readers and rules that VQAv2, OKVQA, VizWiz and TextVQA share.

The field has two rules. VQA's own evaluation normalises both sides only where the ten humans disagree; where all say
the same, the comparison is raw and case-sensitive. lmms-eval, and M4C for TextVQA, always normalise. LLaVA runs the
EvalAI processor over an answer before it is uploaded, so its published VQAv2 is the official rule after the processor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llavaflow.datasets.benchmarks._benchmark import Item, Mark, Options, Pair, Read
from llavaflow.datasets.benchmarks._evalai import flatten, official, soft_score
from llavaflow.datasets.benchmarks._files import Row, find, find_all, load
from llavaflow.datasets.benchmarks._join import asked, image_name, names_of
from llavaflow.infra.errors import InputError

SERVER_KEYS = {"question_id", "answer"}


def vqa_reader(annotations: str) -> Read:
    """A reader of the VQA format; `annotations` is what the authors call their file."""

    def read(gold: Path, options: Options) -> list[Item]:
        return read_vqa(gold, options, annotations, "*annotations*.json", "*.json", "*.jsonl")

    return read


def read_vqa(gold: Path, options: Options, *patterns: str) -> list[Item]:
    """Annotations and questions of the VQA format (two files), or one list or `data` list that holds both.

    An item's gold is its human answers as one-line texts.
    """
    path = find(gold, *patterns, what="annotations in VQA format")
    document = load(path)
    if isinstance(document, Mapping) and "annotations" in document:
        return _two_files(document["annotations"], _questions(path, gold, options))
    listed = document.get("data") if isinstance(document, Mapping) else document
    if not isinstance(listed, list):
        raise InputError(f"{path} has neither `annotations` nor `data`: it is not a VQA gold file.")
    return [item for number, row in enumerate(listed) for item in [_one_file(number, row)] if item is not None]


def _questions(annotations: Path, gold: Path, options: Options) -> dict[str, str]:
    """The question texts by id: from --questions, or from the file beside the annotations."""
    paths = [options.questions] if options.questions else []
    name = annotations.name.replace("annotations", "questions").replace("mscoco_", "OpenEnded_mscoco_", 1)
    beside = (annotations.name.replace("annotations", "questions"), name, "*questions*.json")
    folder = gold if gold.is_dir() else annotations.parent
    paths += [path for path in find_all(folder, *beside) if path != annotations][:1]
    for path in paths:
        document = load(path)
        if isinstance(document, Mapping) and "questions" in document:
            return {str(row["question_id"]): str(row["question"]) for row in document["questions"]}
    return {}


def _two_files(annotations: list[Row], questions: Mapping[str, str]) -> list[Item]:
    items = []
    for row in annotations:
        id, image = str(row["question_id"]), str(row.get("image_id", ""))
        text = questions.get(id, "")
        items.append(
            Item(
                id=id,
                gold=[flatten(human["answer"]) for human in row["answers"]],
                names=_names(id, image, text),
                text=text,
                image=image,
                group=row.get("answer_type") or row.get("question_type") or "",
                meta=row,
            )
        )
    return items


def _names(id: str, image: str, text: str) -> tuple[str, ...]:
    """The id, the image with its question, and an image's name where it cannot be taken for a question's number."""
    named = () if image.isdecimal() else (image, image_name(image))
    return (id, asked(image, text), *named) if text else (id, *named)


def _one_file(number: int, row: Row) -> Item | None:
    answers = row.get("answers")
    if answers is None:
        return None
    image, text = str(row.get("image_id") or row.get("image") or ""), str(row.get("question", ""))
    id = str(row.get("question_id", number))
    return Item(
        id=id,
        gold=[flatten(str(answer["answer"] if isinstance(answer, Mapping) else answer)) for answer in answers],
        names=(id, image, image_name(image), *names_of("", image, text)),
        text=text,
        image=image,
        group=str(row.get("answer_type") or ""),
        meta=row,
    )


def normal_humans(item: Item) -> list[str]:
    """The human answers in VQA's normal form."""
    return [official(human) for human in item.gold]


def always_normalised(normal: Callable[[str], str]) -> Callable[[Item, str], Mark]:
    """The rule that normalises both sides of every question."""

    def rule(item: Item, text: str) -> Mark:
        answer = normal(flatten(text))
        return Mark(value=soft_score(answer, [normal(human) for human in item.gold]), read=answer)

    return rule


def official_value(text: str, humans: Sequence[str], normal: Sequence[str]) -> float:
    """VQA's own evaluation, given the humans as they are and in normal form."""
    if len(set(humans)) > 1:
        return soft_score(official(flatten(text)), normal)
    return soft_score(flatten(text), humans)


def vqa_official(item: Item, text: str) -> Mark:
    """VQA's own evaluation: both sides are normalised only where the humans disagree."""
    return Mark(value=official_value(text, item.gold, normal_humans(item)), read=text)


def official_by_records(item: Item, text: str) -> float:
    """VQA's own evaluation on annotations without answer ids, where equal records count as one and the same human."""
    humans, answer = item.gold, flatten(text)
    if len(set(humans)) > 1:
        humans, answer = normal_humans(item), official(answer)
    given = (human if isinstance(human, Mapping) else {} for human in item.meta["answers"])
    records = [{**human, "answer": said} for human, said in zip(given, humans, strict=True)]
    scores = [
        min(1.0, sum(other != record and other["answer"] == answer for other in records) / 3) for record in records
    ]
    return sum(scores) / len(scores) if scores else 0.0


def in_upload_form(pairs: Sequence[Pair]) -> bool:
    """Whether the answers come from a file made for the server, whose answers are processed already."""
    return all(pair.answer is None or set(pair.answer.row) == SERVER_KEYS for pair in pairs)


def write_upload(records: Iterator[dict[str, Any]], out: Path) -> None:
    """Write the JSON list that an evaluation server takes."""
    out.write_text(json.dumps(list(records), ensure_ascii=False), encoding="utf-8")
