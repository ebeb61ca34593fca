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

from llavaflow.datasets.benchmarks._benchmark import Item, Mark, Options, Pair, by_marks, mean
from llavaflow.datasets.benchmarks._evalai import flatten, official, processed, soft_score
from llavaflow.datasets.benchmarks._files import Row, find, find_all, load
from llavaflow.datasets.benchmarks._join import asked, image_name, names_of
from llavaflow.infra.errors import InputError

SERVER_KEYS = {"question_id", "answer"}


def read_vqa(gold: Path, options: Options, *patterns: str) -> list[Item]:
    """Annotations and questions of the VQA format (two files), or one list or `data` list that holds both."""
    path = find(gold, *patterns, what="annotations in VQA format")
    document = load(path)
    if isinstance(document, Mapping) and "annotations" in document:
        return _two_files(document["annotations"], _questions(path, gold, options))
    listed = document.get("data") if isinstance(document, Mapping) else document
    if not isinstance(listed, list):
        raise InputError(f"{path} has neither `annotations` nor `data`: it is not a VQA gold file.")
    return [item for row, item in enumerate(listed) for item in [_one_file(row, item)] if item is not None]


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
                gold=row["answers"],
                names=(id, asked(image, text)) if text else (id,),
                text=text,
                image=image,
                group=str(row.get("answer_type") or row.get("question_type") or ""),
            )
        )
    return items


def _one_file(number: int, row: Row) -> Item | None:
    answers = row.get("answers", row.get("direct_answers"))
    if answers is None:
        return None
    image, text = str(row.get("image_id") or row.get("image") or ""), str(row.get("question", ""))
    id = str(row.get("question_id", number))
    humans = [answer if isinstance(answer, Mapping) else {"answer": str(answer)} for answer in answers]
    names = (id, image, image_name(image), *names_of("", image, text))
    return Item(id=id, gold=humans, names=names, text=text, image=image, group=str(row.get("answer_type") or ""))


def humans_of(item: Item) -> list[str]:
    """The human answers as one-line texts."""
    return [flatten(str(human["answer"])) for human in item.gold]


def always_normalised(normal: Callable[[str], str]) -> Callable[[Item, str], Mark]:
    """The rule that normalises both sides of every question."""

    def rule(item: Item, text: str) -> Mark:
        answer = normal(flatten(text))
        return Mark(value=soft_score(answer, [normal(human) for human in humans_of(item)]), read=answer)

    return rule


def vqa_official(item: Item, text: str) -> Mark:
    """VQA's own evaluation: both sides are normalised only where the humans disagree."""
    humans, answer = humans_of(item), flatten(text)
    if len(set(humans)) > 1:
        humans, answer = [official(human) for human in humans], official(answer)
    return Mark(value=soft_score(answer, humans), read=answer)


def official_by_dicts(item: Item, text: str) -> float:
    """VQA's own evaluation on annotations without answer ids, where equal records count as one and the same human."""
    humans, answer = humans_of(item), flatten(text)
    if len(set(humans)) > 1:
        humans, answer = [official(human) for human in humans], official(answer)
    records = [{**human, "answer": text} for human, text in zip(item.gold, humans, strict=True)]
    scores = [
        min(1.0, sum(other != record and other["answer"] == answer for other in records) / 3) for record in records
    ]
    return sum(scores) / len(scores) if scores else 0.0


def in_upload_form(pairs: Sequence[Pair]) -> bool:
    """Whether the answers come from a file made for the server, whose answers are processed already."""
    return all(pair.answer is None or set(pair.answer.row) == SERVER_KEYS for pair in pairs)


def uploaded(pairs: Sequence[Pair]) -> list[str]:
    """The answers as they reach the server."""
    as_given = in_upload_form(pairs)
    return [pair.text if as_given else processed(pair.text) for pair in pairs]


def official_marks(pairs: Sequence[Pair]) -> list[Mark]:
    """One mark per pair by the official rule on the uploaded form of the answer."""
    texts = uploaded(pairs)
    return [
        vqa_official(pair.item, text) if pair.answer else Mark(value=0.0, read=None)
        for pair, text in zip(pairs, texts, strict=True)
    ]


def score_of(pairs: Sequence[Pair], rule: Callable[[Item, str], Mark]) -> float:
    """The mean in percent of a rule over all pairs."""
    return mean(mark.value for mark in by_marks(rule)(pairs))


def write_upload(records: Iterator[dict[str, Any]], out: Path) -> None:
    """Write the JSON list that an evaluation server takes."""
    out.write_text(json.dumps(list(records), ensure_ascii=False), encoding="utf-8")
