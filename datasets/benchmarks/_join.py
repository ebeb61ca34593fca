"""Join answers with gold questions by identity, and refuse what does not belong together.

An item carries the names under which answer files may know it (its id; its image with its question); an answer
proposes names, the surest first, and takes the first one that belongs to exactly one item. A name shared by several
items (MME's image id, TextVQA's image id) is skipped, never guessed; only twins, the same question about the same
image asked twice, are taken in turn. Ids that match nothing and count 0..n-1 or 1..n are places in the gold, and so is
lmms-eval's doc_id where nothing else is known and the questions agree. Line order counts only when no answer carries
anything that could be an identity. The remarks say which of these was needed, and how many answers were given to
another question than the gold's of the same id (VizWiz counts every split from 0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llavaflow.datasets.benchmarks._benchmark import Answer, Item, Names, Pair
from llavaflow.infra.errors import InputError

EXAMPLES = 5
# the edition of POPE that LLaVA pins misspells questions that a later one mends
MISSPELT, MENDED = "imange", "image"
TAILS = re.compile(
    r"\n?(Answer the question (using|with) a single word( or phrase)?\.?"
    r"|Answer with the option's letter from the given choices directly\.?"
    r"|When the provided information is insufficient, respond with 'Unanswerable'\.?"
    r"|Reference OCR token:[^\n]*|请直接回答选项字母。|Please answer yes or no\.?)\s*",
)


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The pairs in gold order, remarks, and how many answers had no question (only when holes are allowed)."""

    pairs: list[Pair]
    notes: tuple[str, ...] = ()
    unknown: int = 0


def question_of(prompt: str) -> str:
    """The bare question of a prompt: without the image token and the lines that ask for a form of answer."""
    return TAILS.sub("", prompt.replace("<image>", "")).strip().lower().replace(MISSPELT, MENDED)


def image_name(image: str) -> str:
    """An image without folder and suffix: tools disagree on both."""
    name = image.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def asked(image: str, question: str) -> str:
    """The name made of an image and the question about it."""
    return f"{image_name(image)}\n{question_of(question)}"


def names_of(id: str, image: str = "", question: str = "") -> tuple[str, ...]:
    """An item's names: its id, its image with its question, its question alone."""
    names = [id] if id else []
    if question:
        names += [asked(image, question), f"?{question_of(question)}"]
    return tuple(names)


def usual_names(answer: Answer) -> Iterable[str]:
    """An answer's names in the usual case: the id, then image with question, then the question alone."""
    yield answer.id
    if answer.prompt:
        yield asked(answer.image or answer.id, answer.prompt)
        yield f"?{question_of(answer.prompt)}"


def join(
    items: Sequence[Item],
    answers: Sequence[Answer],
    names: Names,
    *,
    benchmark: str,
    allow_missing: bool,
    ids_repeat: bool = False,
) -> Joined:
    """The answer of every item. Raises InputError for duplicates, unknown ids and (unless allowed) holes.

    ids_repeat: an id that the gold itself gives to several questions is told apart by the prompt, and without one is
    theirs in turn, the replies in alphabetical order, so that the order of the file changes nothing.
    """
    if _without_identity(answers):
        return _by_order(items, answers, benchmark)
    if ids_repeat:
        answers = sorted(answers, key=lambda answer: answer.text)
    taken, strangers, doubles = _take(items, answers, names, ids_repeat)
    notes: tuple[str, ...] = ()
    if len(strangers) == len(answers) and (placed := _by_place(answers, items)):
        taken, strangers, notes = placed, [], ("ids are places in the gold file: none of them is a gold id",)
    counted = len(strangers) - len(strangers := _take_places(items, taken, strangers))
    if counted:
        notes += (f"{counted} answers have no id of their own and were joined by their place (doc_id) in the gold",)
    _refuse_doubles(doubles, benchmark)
    missing = [item for item, answer in zip(items, taken, strict=True) if answer is None]
    _refuse_strangers(strangers, missing, len(items), benchmark, allow_missing)
    _refuse_holes(missing, len(items), benchmark, allow_missing)
    if strangers:
        notes += (f"{len(strangers)} answers belong to no question of this gold and were left out",)
    pairs = [Pair(item=item, answer=answer) for item, answer in zip(items, taken, strict=True)]
    return Joined(pairs=pairs, notes=(*notes, *_other_questions(pairs)), unknown=len(strangers))


def _other_questions(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """A remark where answers were given to another question than the gold's."""
    others = [pair for pair in pairs if pair.answer and not _same_question(pair.item.text, pair.answer.prompt)]
    if not others:
        return ()
    first = others[0].answer
    assert first is not None, "only pairs with an answer were kept"
    return (
        f"{len(others)} answers were given to another question than the gold's of that id (first: {first.id!r} asks "
        f"{first.prompt[:60]!r}, the gold {others[0].item.text[:60]!r}): is the gold of another split or version?",
    )


def _same_question(question: str, prompt: str) -> bool:
    """Whether a prompt can be the question; yes where either is not known. Only letters and digits are compared."""
    if not question or not prompt or question in prompt:
        return True
    asked_, put = _bare(question), _bare(prompt)
    return asked_ in put or put in asked_


def _bare(text: str) -> str:
    return "".join(character for character in question_of(text) if character.isalnum())


def _take(
    items: Sequence[Item], answers: Sequence[Answer], names: Names, ids_repeat: bool
) -> tuple[list[Answer | None], list[Answer], list[Answer]]:
    """The answer of every item, the answers without an item, and those to an item that has one."""
    index = _index(items, ids_repeat)
    taken: list[Answer | None] = [None] * len(items)
    strangers: list[Answer] = []
    doubles: list[Answer] = []
    for answer in answers:
        places = _places(answer, names, index)
        free = [place for place in places if taken[place] is None]
        if free:
            taken[free[0] if len(free) == 1 else _best(free, items, answer)] = answer
        else:
            (doubles if places else strangers).append(answer)
    return taken, strangers, doubles


def _best(free: Sequence[int], items: Sequence[Item], answer: Answer) -> int:
    """Of several questions under one name the one at the answer's own place, else the first that it can be about."""
    own = int(answer.id) if answer.place is None and answer.id.isdecimal() else answer.place
    if own is not None and own in free:
        return own
    return next((place for place in free if _same_question(items[place].text, answer.prompt)), free[0])


def _index(items: Sequence[Item], ids_repeat: bool) -> dict[str, list[int]]:
    """The places of every name: one, several for twins and repeated ids, none for what else different items share."""
    index: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        for name in item.names:
            known = index.setdefault(name, [place])
            if known and known[-1] != place:
                if _twins(items[known[0]], item) or (ids_repeat and name == item.id):
                    known.append(place)
                else:
                    known.clear()
    return index


def _twins(left: Item, right: Item) -> bool:
    same = (left.image, left.text, left.group) == (right.image, right.text, right.group)
    return same and bool(left.image and left.text)


def _places(answer: Answer, names: Names, index: dict[str, list[int]]) -> list[int]:
    for name in names(answer):
        places = index.get(name)
        if places:
            return places
    return []


def _by_place(answers: Sequence[Answer], items: Sequence[Item]) -> list[Answer | None] | None:
    """The answers by their ids as places in the gold, counted from 0 or from 1; none where most ask something else."""
    count = len(items)
    if not all(answer.id.isdecimal() for answer in answers) or len(answers) != count:
        return None
    numbers = {int(answer.id): answer for answer in answers}
    first = min(numbers)
    if first > 1 or len(numbers) != count or max(numbers) != first + count - 1:
        return None
    placed = [numbers[first + place] for place in range(count)]
    agreed = sum(_same_question(item.text, answer.prompt) for item, answer in zip(items, placed, strict=True))
    return [*placed] if 2 * agreed > count else None


def _take_places(items: Sequence[Item], taken: list[Answer | None], strangers: Sequence[Answer]) -> list[Answer]:
    """Give answers whose names told nothing to the questions at their places; returned are those that do not fit."""
    left = []
    for answer in strangers:
        place = answer.place
        if place is not None and place < len(items) and taken[place] is None and _fits(items[place], answer):
            taken[place] = answer
        else:
            left.append(answer)
    return left


def _fits(item: Item, answer: Answer) -> bool:
    """Whether the little that an answer says of its question is true of this one."""
    return (not answer.id or answer.id in item.names) and _same_question(item.text, answer.prompt)


def _without_identity(answers: Sequence[Answer]) -> bool:
    return not any(answer.id or answer.prompt or answer.place is not None for answer in answers)


def _by_order(items: Sequence[Item], answers: Sequence[Answer], benchmark: str) -> Joined:
    if len(items) != len(answers):
        raise InputError(
            f"{benchmark}: the answers carry no id and no prompt, and there are {len(answers)} of them for "
            f"{len(items)} questions. Write question_id with every answer."
        )
    pairs = [Pair(item=item, answer=answer) for item, answer in zip(items, answers, strict=True)]
    return Joined(pairs=pairs, notes=("joined by line order: neither id nor prompt in the answers",))


def _refuse_doubles(doubles: list[Answer], benchmark: str) -> None:
    if doubles:
        raise InputError(
            f"{benchmark}: {len(doubles)} answers repeat a question that is answered already: {_lines(doubles)}. "
            "Keep one answer per question."
        )


def _refuse_strangers(
    strangers: list[Answer], missing: list[Item], gold: int, benchmark: str, allow_missing: bool
) -> None:
    if strangers and not allow_missing:
        hint = f" {len(missing)} of the {gold} gold questions have no answer: is the gold of another version?"
        raise InputError(
            f"{benchmark}: {len(strangers)} answers have an unknown id: {_lines(strangers)}."
            f"{hint if missing else ''} Give the gold of these answers, or --questions with image and text."
        )


def _refuse_holes(missing: list[Item], gold: int, benchmark: str, allow_missing: bool) -> None:
    if len(missing) == gold:
        raise InputError(f"{benchmark}: none of the {gold} gold questions has an answer in this file.")
    if missing and not allow_missing:
        names = ", ".join(item.id for item in missing[:EXAMPLES])
        raise InputError(
            f"{benchmark}: {len(missing)} of {gold} questions have no answer (first: {names}). "
            "Complete the answers, or pass --allow-missing to count them as wrong."
        )


def _lines(answers: list[Answer]) -> str:
    return ", ".join(f"{answer.id or answer.prompt[:40]!r} (record {answer.line})" for answer in answers[:EXAMPLES])
