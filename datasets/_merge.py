"""The merge rule of LLaVA-1.5: all questions on one training image become one conversation.

Used by VQAv2, GQA, OKVQA and other question sets. Images come in the order in which the raw file first names them,
questions in file order, and the response-format line stands behind the first question only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llavaflow.datasets._raw import find, rows, search
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import Reading, capitalise, coco_image, dialogue

MERGE_DROPS = {"empty-question": "no question text", "empty-answer": "no answer text"}


class Asked(NamedTuple):
    """One question on one image, ready to be merged."""

    id: str
    image: str
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Collects questions and yields one sample per image."""

    source: str
    prompt: str
    image_path: Callable[[str], str]
    sample_id: Callable[[str], str]
    tables: tuple[str, ...] = ("question",)

    def samples(self, asked: Iterable[Asked | Sample]) -> Iterator[Sample]:
        """Dropped samples as they come, then the merged ones."""
        groups: dict[str, list[Asked]] = {}
        seen: set[str] = set()
        for item in asked:
            if isinstance(item, Sample):
                yield item
            elif fault := _fault(item, seen):
                yield Sample(id=item.id, source=self.source, parents=self._parents(item.id), dropped=fault)
            else:
                seen.add(item.id)
                groups.setdefault(item.image, []).append(item)
        while groups:
            image = next(iter(groups))
            yield self._merged(image, groups.pop(image))

    def _merged(self, image: str, asked: list[Asked]) -> Sample:
        return Sample(
            id=self.sample_id(image),
            source=self.source,
            images=(self.image_path(image),),
            turns=dialogue([(item.question, item.answer) for item in asked], self.prompt),
            parents=tuple([parent for item in asked for parent in self._parents(item.id)]),
        )

    def _parents(self, number: str) -> tuple[str, ...]:
        return tuple([f"{self.source}:{table}/{number}" for table in self.tables])


def _fault(asked: Asked, seen: set[str]) -> str | None:
    if not asked.question:
        return "empty-question"
    if not asked.answer:
        return "empty-answer"
    return "repeated-id" if asked.id in seen else None


def coco_merge(source: str, prompt: str) -> Merge:
    """The merge over COCO images, keyed by image number."""
    return Merge(
        source=source,
        prompt=prompt,
        image_path=coco_image,
        sample_id=lambda image: f"{int(image):012d}",
        tables=("question", "annotation"),
    )


def most_given(answers: list[Any], field: str = "answer") -> str:
    """The answer that most humans gave; of equals the one given first."""
    return Counter(answer[field] for answer in answers).most_common(1)[0][0] if answers else ""


VQA_DROPS = {**MERGE_DROPS, "no-annotation": "a question without a record in the annotation file"}
VQA_REPAIRS = {"annotation-without-question": "an annotation that no question refers to was left aside"}


def vqa_pairs(
    path: Path,
    reading: Reading,
    *,
    source: str,
    files: tuple[tuple[str, ...], tuple[str, ...]],
    answer: Callable[[dict[str, Any]], str],
) -> Iterator[Asked | Sample]:
    """Questions joined with their annotations on question_id: the two-file format of VQAv2 and OKVQA."""
    file = find(path, *files[0], source=source)
    notes = search(path, *files[1], source=source)
    if notes is None or notes == file:
        notes = find(path if path.is_dir() else path.parent, *files[1], source=source)
    answers = dict(
        reading.join(notes, rows(notes, "annotations"), lambda note: (str(note["question_id"]), answer(note)))
    )
    asked: set[str] = set()

    def build(raw: Any) -> Asked | Sample:
        number = str(raw["question_id"])
        if number not in answers:
            return Sample(id=number, source=source, parents=(f"{source}:question/{number}",), dropped="no-annotation")
        asked.add(number)
        text = capitalise(reading.text(answers[number]))
        return Asked(number, str(int(raw["image_id"])), reading.text(raw["question"]), text)

    yield from reading.each(source, file, rows(file, "questions"), build)
    if len(answers) > len(asked):
        reading.repairs["annotation-without-question"] += len(answers) - len(asked)
