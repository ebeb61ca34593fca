"""MMBench: every question is asked once per rotation of its options, and counts only if all rotations are right.

Source of the rule: MMBench's circular evaluation (VLMEvalKit `mcq_circular_eval`, lmms-eval `mmbench_evals.py`). The
rotations of question 17 are 1000017, 2000017, ...; dev has 1,176 base questions in 4,377 rows.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llavaflow.datasets.benchmarks._benchmark import (
    Ask,
    Benchmark,
    Item,
    Judge,
    Mark,
    Options,
    Pair,
    Prompt,
    Question,
    Read,
    Scored,
    mean,
)
from llavaflow.datasets.benchmarks._choices import inferred_option
from llavaflow.datasets.benchmarks._files import Row, find, rows
from llavaflow.datasets.benchmarks._join import usual_names
from llavaflow.infra.errors import InputError

LETTERS = "ABCD"
ROTATION = 1_000_000
# what a table reader takes for an empty cell
EMPTY = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
NOT_FOR_SERVER = ("hint", "category", "source", "image", "comment", "l2-category")
PREDICTION_COLUMN = 6
JUDGE_PROMPT = (
    "A multiple-choice question, its options and a reply follow. Say which option the reply means: answer with its "
    "letter alone, or with E when it means none of them.\n\nQuestion: {question}\n{options}\nReply: {reply}\nLetter:"
)


ENGLISH = ("mmbench_dev_2*.tsv", "mmbench_dev_en*.tsv", "MMBench_DEV_EN*.tsv")
LETTER_LINE = "Answer with the option's letter from the given choices directly."


def reader(names: Sequence[str]) -> Read:
    """A reader of MMBench's table; `names` tell one language from the other, for both lie in one folder."""
    return lambda gold, options: _items(_table(gold, names))


def asker(names: Sequence[str], folder: str, last_line: str) -> Ask:
    """Every row of the table as LLaVA asks it: hint, question, options up to the first empty one, the last line."""

    def ask(gold: Path) -> Iterator[Question]:
        table = rows(_table(gold, names))
        cells = {int(float(row["index"])): str(row.get("image") or "") for row in table}
        for row in table:
            index = int(float(row["index"]))
            head = [str(row[name]) for name in ("hint", "question") if not empty(row.get(name))]
            options = [f"{letter}. {text}" for letter, text in zip(LETTERS, options_of(row), strict=False)]
            # later editions write a picture once, and elsewhere the index of the row that has it
            cell = cells[index]
            cell = cells.get(int(cell), "") if cell.isdecimal() else cell
            yield Question(
                id=str(index),
                text="\n".join((*head, *options, last_line)),
                image=f"{folder}/{index % ROTATION}.jpg",
                picture=b64decode(cell),
            )

    return ask


def _table(gold: Path, names: Sequence[str]) -> Path:
    return find(gold, *names, "mmbench_dev*.tsv", "*.tsv", "*.csv", "*.jsonl", what="MMBench's TSV")


def _items(path: Path) -> list[Item]:
    items = [_item(row, path) for row in rows(path)]
    numbers = {item.meta["index"] for item in items}
    lost = [number for number in numbers if number % ROTATION not in numbers]
    if lost:
        raise InputError(f"{path}: row {min(lost)} is a rotation of a question that is not in the file.")
    return items


def _item(row: Row, path: Path) -> Item:
    try:
        index = int(float(row["index"]))
        gold = row.get("answer")
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} has a row without a numeric index ({error}): it is not MMBench's table.") from error
    return Item(
        id=str(index),
        gold=None if empty(gold) else str(gold).strip(),
        names=(str(index),),
        text=str(row.get("question", "")),
        image=str(index % ROTATION),
        group=str(row.get("category") or ""),
        options=options_of(row),
        meta={"index": index, "row": row},
    )


def empty(value: object) -> bool:
    """An absent cell, or one of the texts that a table reader takes for absent."""
    return value is None or str(value) in EMPTY or str(value).lower() in ("nan", "none")


def options_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The options up to the first empty one."""
    found = []
    for letter in LETTERS:
        if empty(row.get(letter)):
            break
        found.append(str(row[letter]))
    return tuple(found)


def _choose(pairs: Sequence[Pair], judge: Judge | None) -> list[str | None]:
    """The letter that each reply means: by rule, by option text, by the judge where there is one."""
    options = [dict(zip(LETTERS, pair.item.options, strict=False)) for pair in pairs]
    found = [
        inferred_option(pair.text, texts) if pair.answer else None for pair, texts in zip(pairs, options, strict=True)
    ]
    unread = [place for place, letter in enumerate(found) if letter is None and pairs[place].answer]
    if judge is not None and unread:
        replies = judge([_prompt(pairs[place], options[place]) for place in unread])
        for place, reply in zip(unread, replies, strict=True):
            found[place] = inferred_option(reply, options[place])
    return found


def _prompt(pair: Pair, options: Mapping[str, str]) -> Prompt:
    listed = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    return Prompt(text=JUDGE_PROMPT.format(question=pair.item.text, options=listed, reply=pair.text))


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    if any(pair.item.gold is None for pair in pairs):
        raise InputError("mmbench: this table has no answers (a test set): write the server's file with --upload.")
    read = _choose(pairs, judge)
    marks = [
        Mark(value=float(letter is not None and letter == pair.item.gold), read=letter)
        for letter, pair in zip(read, pairs, strict=True)
    ]
    circles: dict[int, list[float]] = {}
    groups: dict[int, str] = {}
    for pair, mark in zip(pairs, marks, strict=True):
        base = pair.item.meta["index"] % ROTATION
        circles.setdefault(base, []).append(mark.value)
        groups.setdefault(base, pair.item.group)
    hits = {base: float(all(values)) for base, values in circles.items()}
    first = [mark.value for pair, mark in zip(pairs, marks, strict=True) if pair.item.meta["index"] < ROTATION]
    metrics = {
        "circular": mean(hits.values()),
        "row_accuracy": mean(mark.value for mark in marks),
        "base_rotation_accuracy": mean(first) if first else None,
        "base_questions": len(hits),
        "category": _categories(hits, groups),
    }
    return Scored(score=mean(hits.values()), marks=marks, metrics=metrics, notes=_once(circles))


def _categories(hits: Mapping[int, float], groups: Mapping[int, str]) -> dict[str, float]:
    named = sorted({group for group in groups.values() if group})
    return {name: mean(hit for base, hit in hits.items() if groups[base] == name) for name in named}


def _once(circles: Mapping[int, Sequence[float]]) -> tuple[str, ...]:
    if all(len(values) == 1 for values in circles.values()):
        return ("no question has a rotation in this gold: this is not the circular score of the papers",)
    return ()


def _upload(pairs: Sequence[Pair], out: Path) -> None:
    """The Excel sheet of LLaVA's converter: the table without its describing columns, prediction as the 7th."""
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    names = [name for name in pairs[0].item.meta["row"] if name not in (*NOT_FOR_SERVER, "prediction")]
    names.insert(PREDICTION_COLUMN, "prediction")
    sheet = (book := Workbook()).active
    assert sheet is not None, "a new workbook has a sheet"
    sheet.append(names)
    for pair in pairs:
        row = {**pair.item.meta["row"], "index": pair.item.meta["index"], "prediction": pair.text or None}
        cells = (None if empty(row[name]) else row[name] for name in names)
        # a sheet cannot hold control characters
        sheet.append([ILLEGAL_CHARACTERS_RE.sub("", cell) if isinstance(cell, str) else cell for cell in cells])
    book.save(out)


BENCHMARK = Benchmark(
    name="mmbench",
    title="MMBench dev (circular)",
    layout="mmbench_dev_20230712.tsv: index, question, hint, A, B, C, D, answer, category, image, ...",
    prompt=f"{{hint}}\\n{{question}}\\nA. ...\\n{LETTER_LINE}",
    rule=(
        "Circular: a base question counts only if every rotation in the gold is answered right; accuracy over base "
        "questions. The letter by rule, else the one option whose text occurs, else the judge, else wrong."
    ),
    source="MMBench circular evaluation; VLMEvalKit can_infer, lmms-eval mmbench_evals.py",
    column="MMB",
    read=reader(ENGLISH),
    ask=asker(ENGLISH, "mmbench", LETTER_LINE),
    mark=_mark,
    names=usual_names,
    upload=_upload,
    upload_form="Excel sheet: the table without hint, category, source, image, comment, l2-category; prediction 7th",
)
