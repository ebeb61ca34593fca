"""ScienceQA: school questions with choices, some with a picture, in every prompt format of its authors.

A format is INPUT-OUTPUT: the input orders question (Q), context (C) and choices (M), and may give away lecture (L)
and solution (E); the output orders answer (A), lecture and solution. LLaVA trains on QCM-LEA (v1) and QCM-LEPA (v0).
Upstream's AL gives the solution and AE the lecture, although the letters say otherwise: kept, since data is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from llavaflow.datasets._raw import elements, find, load, search
from llavaflow.datasets._sample import Sample, Turn
from llavaflow.datasets._source import Reading, Source, rejected
from llavaflow.infra.errors import InputError

INPUTS = {
    "CQM": "Context: {context}\nQuestion: {question}\nOptions: {choices}\n",
    "QCM": "Question: {question}\nContext: {context}\nOptions: {choices}\n",
    "QCML": "Question: {question}\nContext: {context}\nOptions: {choices}\nBECAUSE: {lecture}\n",
    "QCME": "Question: {question}\nContext: {context}\nOptions: {choices}\nBECAUSE: {solution}\n",
    "QCMLE": "Question: {question}\nContext: {context}\nOptions: {choices}\nBECAUSE: {lecture} {solution}\n",
    "QCLM": "Question: {question}\nContext: {context}\nBECAUSE: {lecture}\nOptions: {choices}\n",
    "QCEM": "Question: {question}\nContext: {context}\nBECAUSE: {solution}\nOptions: {choices}\n",
    "QCLEM": "Question: {question}\nContext: {context}\nBECAUSE: {lecture} {solution}\nOptions: {choices}\n",
}
OUTPUTS = {
    "A": "The answer is {answer}.",
    "AL": "The answer is {answer}. BECAUSE: {solution}",
    "AE": "The answer is {answer}. BECAUSE: {lecture}",
    "ALE": "The answer is {answer}. BECAUSE: {lecture} {solution}",
    "AEL": "The answer is {answer}. BECAUSE: {solution} {lecture}",
    "LA": "{lecture} The answer is {answer}.",
    "EA": "{solution} The answer is {answer}.",
    "LEA": "{lecture} {solution} The answer is {answer}.",
    "ELA": "{solution} {lecture} The answer is {answer}.",
    "LEPA": "",
}
DEFAULT_FORMAT, DEFAULT_SPLIT = "QCM-LEA", "train"
BECAUSE = "BECAUSE:"
_SPLIT_FOLDERS = ("train", "val", "test")


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per problem of the split, in the order of the split's list."""
    form = reading.options.get("format", DEFAULT_FORMAT)
    asked, _, told = form.partition("-")
    if asked not in INPUTS or told not in OUTPUTS:
        raise InputError(f"format '{form}' is not INPUT-OUTPUT with {', '.join(INPUTS)} and {', '.join(OUTPUTS)}.")
    file = find(path, "problems.json", "data/scienceqa/problems.json", source="scienceqa")
    wanted = _split(file, reading)

    def build(item: tuple[str, dict[str, Any]]) -> Sample:
        number, raw = item[0], item[1]
        if wanted is not None and number not in wanted:
            return rejected("scienceqa", f"problem/{number}", "not-in-split")
        return _sample(number, raw, asked, told, reading)

    order = {number: place for place, number in enumerate(wanted or ())}
    kept: dict[int, Sample] = {}
    for sample in reading.each("scienceqa", file, elements(file), build):
        if sample.dropped or not order:
            yield sample
        else:
            kept[order[sample.id]] = sample
    yield from (kept[place] for place in sorted(kept))


def _split(file: Path, reading: Reading) -> dict[str, None] | None:
    """The ids of the split; None without a split list, when every problem is read."""
    listed = search(file.parent, "pid_splits.json", source="scienceqa")
    if listed is None:
        return None
    splits = load(listed)
    name = reading.options.get("split", DEFAULT_SPLIT)
    if not isinstance(splits, dict):
        raise InputError(f"{listed} is not a mapping of splits to lists of problem ids.")
    if name not in splits:
        there = ", ".join(splits) or "none"
        raise InputError(f"no split '{name}' in {listed} (it has {there}); choose: --option split=NAME.")
    if not isinstance(splits[name], list):
        raise InputError(f"split '{name}' in {listed} is not a list of problem ids.")
    return dict.fromkeys(str(number) for number in splits[name])


def _sample(number: str, raw: dict[str, Any], asked: str, told: str, reading: Reading) -> Sample:
    choices = [reading.text(choice) for choice in raw["choices"]]
    right = raw["answer"]
    if not 0 <= right < len(choices):
        return rejected("scienceqa", f"problem/{number}", "bad-choices")
    question = reading.text(raw["question"])
    parts = {
        "question": question,
        "context": _context(raw, reading),
        "choices": " ".join(f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)),
        "lecture": _line(raw.get("lecture"), reading),
        "solution": _line(raw.get("solution"), reading),
        "answer": ascii_uppercase[right],
    }
    text = _tidy(INPUTS[asked].format(**parts)).removeprefix("Question: ")
    answer = _lepa(parts) if told == "LEPA" else _tidy(OUTPUTS[told].format(**parts))
    image = raw.get("image")
    return Sample(
        id=number,
        source="scienceqa",
        images=(f"{number}/image.png",) if image else (),
        turns=(Turn(role="human", text=f"{text}\n<image>" if image else text), Turn(role="gpt", text=answer)),
        parents=(f"scienceqa:problem/{number}",),
    )


def _context(raw: dict[str, Any], reading: Reading) -> str:
    """The hint, with the picture's caption where that is wanted and there is one."""
    texts = [reading.text(raw.get("hint") or "")]
    if reading.options.get("captions") == "yes" and raw.get("caption"):
        texts.append(f"Image: {reading.text(raw['caption'])}")
    return " ".join(text for text in texts if text) or "N/A"


def _line(text: str | None, reading: Reading) -> str:
    """A text on one line, its breaks written as \\n: the form in which upstream's files have them."""
    return reading.without_image_tokens((text or "").replace("\n", "\\n"))


def _lepa(parts: dict[str, str]) -> str:
    """Lecture and solution as labelled lines where they exist, then the answer behind a mark."""
    told = [f"{key.upper()}: {parts[key]}" for key in ("lecture", "solution") if parts[key]]
    return "\n".join([*told, "###", f"ANSWER: {parts['answer']}."])


def _tidy(text: str) -> str:
    text = text.replace("  ", " ").strip()
    return text.removesuffix(BECAUSE).strip() if text.endswith(BECAUSE) else text


SOURCE = Source(
    name="scienceqa",
    title="ScienceQA",
    origin=("https://github.com/lupantech/ScienceQA",),
    licence="CC BY-NC-SA 4.0",
    layout="""problems.json     {id: {question, choices, answer, hint, image: image.png | null, lecture, solution}}
pid_splits.json   {train: [..], val: [..], test: [..], minitrain: [..], ...}   (without it every problem is read)
train/<id>/image.png, val/<id>/image.png, test/<id>/image.png""",
    rule="one question and answer per problem in the chosen format; pictures behind the question",
    read=read,
    expected={
        "train": 12_726, "val": 4_241, "test": 4_241, "trainval": 16_967, "minitrain": 1_272, "minival": 424,
        "minitest": 424,
    },  # fmt: skip
    images="scienceqa/images",
    shelves=("images", *_SPLIT_FOLDERS, *(f"images/{split}" for split in _SPLIT_FOLDERS)),
    drops={
        "not-in-split": "a problem of another split",
        "bad-choices": "a right choice that is not among the choices",
    },
    options={
        "format": f"INPUT-OUTPUT, INPUT one of {', '.join(INPUTS)}, OUTPUT one of {', '.join(OUTPUTS)} (QCM-LEA)",
        "split": "a split of pid_splits.json (train)",
        "captions": "yes adds the picture's caption to the context, where problems carry one",
    },
)
