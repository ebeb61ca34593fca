"""POPE: is there a ... in the image? Three samplings (random, popular, adversarial) of COCO val2014 objects.

Source of the rule: LLaVA `eval_pope.py`. Upstream zips answers with labels by row; here an answer belongs to (split,
image, question) or (split, number), and the question of the prompt must be the gold's, so the random split of 2,910
rows is never scored against the one of 3,000.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import (
    Answer,
    Benchmark,
    Item,
    Judge,
    Mark,
    Options,
    Pair,
    Scored,
    by_marks,
    mean,
)
from llavaflow.datasets.benchmarks._files import find, find_all, rows
from llavaflow.datasets.benchmarks._join import asked, question_of
from llavaflow.infra.errors import InputError

SPLITS = ("random", "popular", "adversarial")
# LLaVA numbers the questions of a split from 0, 10 and 20 millions on; other files give adversarial 30 millions
MILLIONS = 10_000_000
BY_MILLIONS = ("adversarial", "random", "popular", "adversarial")
PINNED_RANDOM, FULL = 2910, 3000
NEGATIVE = ("No", "no", "not")


def _read(gold: Path, options: Options) -> list[Item]:
    if gold.is_dir():
        # beside COCO's the authors publish the same for A-OKVQA, GQA and SEEM: another test
        paths = list(dict.fromkeys(find_all(gold, "coco_pope_*.json"))) or list(find_all(gold, "*pope*.json"))
        paths = paths or [find(gold, "coco_pope_*.json", what="POPE gold (coco_pope_random.json and so on)")]
    else:
        paths = [gold]
    return [item for path in paths for item in _split(path)]


def _split(path: Path) -> list[Item]:
    named = next((split for split in SPLITS if split in path.name), "")
    items = []
    for number, row in enumerate(rows(path), start=1):
        label = str(row.get("label", row.get("answer", ""))).strip().lower()
        if label not in ("yes", "no"):
            raise InputError(f"{path}, record {number} has no label yes or no: it is not a POPE gold file.")
        split = named or str(row.get("category", ""))
        items.append(_item(split, number, str(row["image"]), str(row.get("text", row.get("question"))), label, row))
    return items


def _item(split: str, number: int, image: str, text: str, label: str, row: dict[str, object]) -> Item:
    own, question = str(row.get("question_id", number)), question_of(text)
    numbers = {own, str(number)} if own.isdecimal() else {str(number)}
    names = [f"{split}|{asked(image, text)}"]
    names += [f"{split}|{value}|{question}" for value in sorted(numbers, key=lambda value: value != own)]
    return Item(
        id=f"{split}/{own}" if split else own,
        gold=label,
        names=(*names, f"{split}#{own}", own, asked(image, text)),
        text=text,
        image=image,
        group=split,
    )


def _names(answer: Answer) -> Iterator[str]:
    image = answer.image if answer.image != answer.id else ""
    split, number = _place(answer)
    for question in _questions(answer.prompt):
        if image:
            yield f"{split}|{asked(image, question)}"
        yield f"{split}|{number}|{question}"
        if not split and image:
            yield asked(image, question)
    if not answer.prompt:
        yield answer.id.replace("/", "#")
        yield answer.id
        yield f"{split}#{number}"


def _questions(prompt: str) -> Iterator[str]:
    """The question in a prompt: without the known tails, or, where a tool adds its own, up to the question mark."""
    if prompt:
        yield question_of(prompt)
        yield question_of(prompt.partition("?")[0] + "?")


def _place(answer: Answer) -> tuple[str, str]:
    """Split and number within it: LLaVA's ids hold both, lmms-eval's documents say them."""
    if not answer.id.isdecimal():
        split, _, number = answer.id.partition("/")
        return (split, number) if split in SPLITS else (answer.group, answer.id)
    millions, place = divmod(int(answer.id), MILLIONS)
    if answer.group in SPLITS or answer.place is not None:
        return answer.group, str(place)
    return BY_MILLIONS[millions] if millions < len(BY_MILLIONS) else "", str(place)


def says(text: str) -> str:
    """Yes or no as LLaVA reads it: the first sentence, no commas; anything without a negative word is yes."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if any(word in NEGATIVE for word in words) else "yes"


def _rule(item: Item, text: str) -> Mark:
    read = says(text)
    return Mark(value=float(read == item.gold), read=read)


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    marks = by_marks(_rule)(pairs)
    golds = [pair.item.gold for pair in pairs]
    says_ = [mark.read or _wrong(gold) for mark, gold in zip(marks, golds, strict=True)]
    splits = {
        split: _confusion(*zip(*chosen, strict=True))
        for split in dict.fromkeys(pair.item.group for pair in pairs)
        if (chosen := [(g, s) for g, s, pair in zip(golds, says_, pairs, strict=True) if pair.item.group == split])
    }
    exact = [pair.text.lower().strip() if pair.answer else "" for pair in pairs]
    score = mean(row["f1"] for row in splits.values())
    metrics = {
        "mean_f1": score,
        "pooled_f1": 100 * _confusion(golds, says_)["f1"],
        "lmms_eval_pooled_f1": 100 * _confusion(golds, exact)["f1"],
        "accuracy": mean(mark.value for mark in marks),
        "splits": splits,
        "rows": {split: int(row["n"]) for split, row in splits.items()},
    }
    return Scored(score=score, marks=marks, metrics=metrics, notes=_version(splits))


def _wrong(gold: str) -> str:
    return "yes" if gold == "no" else "no"


def _confusion(golds: Sequence[str], read: Sequence[str]) -> dict[str, float]:
    """Counts and rates with yes as the positive answer; a rate without cases is 0."""
    cells = list(zip(golds, read, strict=True))
    tp, fp = cells.count(("yes", "yes")), cells.count(("no", "yes"))
    fn, tn = cells.count(("yes", "no")), cells.count(("no", "no"))
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    return {
        "n": len(cells),
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
        "accuracy": _ratio(tp + tn, len(cells)),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": _ratio(tp + fp, len(cells)),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _version(splits: dict[str, dict[str, float]]) -> tuple[str, ...]:
    """Which edition of the random split this is, and which splits the mean lacks."""
    notes = []
    rows_ = int(splits.get("random", {}).get("n", 0))
    if rows_ == PINNED_RANDOM:
        notes.append(f"random split of {PINNED_RANDOM} rows: the edition that LLaVA's published number uses")
    elif rows_ == FULL:
        notes.append(f"random split of {FULL} rows: LLaVA's published number uses the edition of {PINNED_RANDOM}")
    elif rows_:
        notes.append(f"random split of {rows_} rows: neither the edition of {PINNED_RANDOM} nor that of {FULL}")
    absent = [split for split in SPLITS if split not in splits]
    if absent:
        notes.append(f"the mean is over {len(splits)} of 3 splits ({', '.join(absent)} not in the gold)")
    return tuple(notes)


BENCHMARK = Benchmark(
    name="pope",
    title="POPE (COCO val2014: random, popular, adversarial)",
    layout="a folder with coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json, or one of them",
    prompt="{question}\\nAnswer the question using a single word or phrase.",
    rule=(
        "Mean of the three F1 (yes is positive): first sentence, commas dropped; a word No, no or not means no, "
        "everything else yes, the empty answer included. metrics.pooled_f1 pools the splits."
    ),
    source="LLaVA eval_pope.py; metrics.lmms_eval_pooled_f1: lmms-eval pope/utils.py, which wants exactly yes or no",
    column="POPE",
    editions=f"POPE's random split exists with {PINNED_RANDOM} rows (the one LLaVA pins) and with {FULL}.",
    read=_read,
    mark=_mark,
    names=_names,
)
