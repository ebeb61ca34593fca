"""MME: two yes/no questions per image, ten perception and four cognition categories.

Source of the rule: MME's `eval_tool/calculation.py`. Upstream pairs the two questions of an image by consecutive
lines; here by category and image, which gives the same totals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

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
from llavaflow.datasets.benchmarks._files import Row, find, kind_of, read_bytes, rows
from llavaflow.datasets.benchmarks._join import question_of
from llavaflow.infra.errors import InputError

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
CATEGORIES = PERCEPTION + COGNITION
READ_CHARACTERS = 4
TAIL = "Please answer yes or no."
RELEASE = "MME_Benchmark_release_version"


def _read(gold: Path, options: Options) -> list[Item]:
    if (gold / RELEASE).is_dir():
        gold = gold / RELEASE
    records = list(_folder(gold)) if gold.is_dir() else list(_file(gold))
    if not records:
        find(gold, "existence.txt", "existence/*.txt", what="MME gold (a folder per category, or joined text files)")
    places: dict[str, int] = {}
    return [_item(category, image, text, label, places) for category, image, text, label in records]


def _folder(gold: Path) -> Iterator[tuple[str, str, str, str]]:
    for category in CATEGORIES:
        for joined in (gold / f"{category}.txt", gold / f"{category}.txt.gz"):
            if joined.is_file():
                yield from _joined(joined)
                break
        for path in sorted((gold / category).rglob("*.txt*")) if (gold / category).is_dir() else ():
            for line in _texts(path):
                text, _, label = line.rpartition("\t")
                yield category, _stem(path), text, label
    tables = [path for path in sorted(gold.glob("*.jsonl")) if path.name.startswith(("gold", "test"))]
    for path in tables:
        yield from _file(path)


def _file(path: Path) -> Iterator[tuple[str, str, str, str]]:
    if kind_of(path) == ".txt":
        yield from _joined(path)
        return
    for row in rows(path):
        yield _row(row, path)


def _row(row: Row, path: Path) -> tuple[str, str, str, str]:
    try:
        name, text = str(row["question_id"]), str(row.get("question") or row["text"])
        return str(row.get("category") or name.split("/")[0]), name, text, str(row["answer"])
    except KeyError as error:
        raise InputError(f"{path} has a record without {error}: it is not an MME gold file.") from error


def _joined(path: Path) -> Iterator[tuple[str, str, str, str]]:
    for number, line in enumerate(_texts(path), start=1):
        parts = line.split("\t")
        if len(parts) < 3:
            raise InputError(f"{path}, line {number} has {len(parts)} columns, not image, question, gold (and reply).")
        yield _stem(path), parts[0], parts[1], parts[2]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".txt")


def _texts(path: Path) -> list[str]:
    return [line for line in read_bytes(path).decode("utf-8").splitlines() if line.strip()]


def _item(category: str, image: str, text: str, label: str, places: dict[str, int]) -> Item:
    stem = PurePosixPath(image).stem
    picture = f"{category}/{stem}"
    place = places.get(picture, 0)
    places[picture] = place + 1
    return Item(
        id=f"{picture}#{place}",
        gold=label.strip().lower().rstrip("."),
        names=(_name(category, stem, text), f"{picture}#{place}"),
        text=text.removesuffix(TAIL).strip(),
        image=picture,
        group=category,
    )


def _name(category: str, stem: str, text: str) -> str:
    return f"{category}/{stem}|{' '.join(question_of(text).split())}"


def _names(answer: Answer) -> Iterator[str]:
    parts = PurePosixPath(answer.id)
    category = answer.group if answer.group in CATEGORIES else parts.parts[0] if parts.parts else ""
    if answer.prompt:
        yield _name(category, parts.stem, answer.prompt)
        yield _name(category, PurePosixPath(answer.image).stem, answer.prompt)
    yield answer.id
    picture, _, place = answer.id.partition("#")
    yield f"{category}/{PurePosixPath(picture).stem}#{place}"


def says(text: str) -> str | None:
    """yes or no within the first characters; None is MME's `other`."""
    start = text.lower()[:READ_CHARACTERS]
    return "yes" if "yes" in start else "no" if "no" in start else None


def _rule(item: Item, text: str) -> Mark:
    read = says(text)
    return Mark(value=float(read == item.gold), read=read)


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    marks = by_marks(_rule)(pairs)
    points = {}
    for category in dict.fromkeys(pair.item.group for pair in pairs):
        chosen = [(pair, mark) for pair, mark in zip(pairs, marks, strict=True) if pair.item.group == category]
        accuracy = mean(mark.value for _, mark in chosen)
        images: dict[str, list[float]] = {}
        for pair, mark in chosen:
            images.setdefault(pair.item.image, []).append(mark.value)
        both = mean(len(values) == 2 and sum(values) == 2 for values in images.values())
        points[category] = {"points": accuracy + both, "accuracy": accuracy, "accuracy_plus": both}
    perception = sum(points[name]["points"] for name in PERCEPTION if name in points)
    cognition = sum(points[name]["points"] for name in COGNITION if name in points)
    metrics = {"perception": perception, "cognition": cognition, "total": perception + cognition, "categories": points}
    return Scored(score=perception, marks=marks, metrics=metrics, notes=_notes(points))


def _notes(points: dict[str, dict[str, float]]) -> tuple[str, ...]:
    absent = [name for name in CATEGORIES if name not in points]
    return (f"categories not in the gold: {', '.join(absent)}",) if absent else ()


def _upload(pairs: Sequence[Pair], out: Path) -> None:
    """The folder of joined text files that MME's tool reads."""
    out.mkdir(parents=True)
    for category in dict.fromkeys(pair.item.group for pair in pairs):
        lines = [
            f"{pair.item.image.split('/')[-1]}.txt\t{pair.item.text} {TAIL}\t{(pair.item.gold or '').capitalize()}"
            f"\t{' '.join(pair.text.split())}\n"
            for pair in pairs
            if pair.item.group == category
        ]
        (out / f"{category}.txt").write_text("".join(lines), encoding="utf-8")


BENCHMARK = Benchmark(
    name="mme",
    title="MME (perception and cognition)",
    layout=(
        "MME_Benchmark_release_version (a folder per category with a text file per image: question, tab, Yes or No), "
        "or a folder of joined <category>.txt files (image, question, gold, perhaps reply)"
    ),
    prompt="{question}\\nAnswer the question using a single word or phrase.",
    rule=(
        "Perception points: per category accuracy x 100 plus the share of images with both questions right x 100, "
        "summed over 10 categories (4 for metrics.cognition). yes or no within the first four characters, lower-cased; "
        "anything else is wrong."
    ),
    source="MME eval_tool/calculation.py; LLaVA convert_answer_to_mme.py for the join",
    column="MME",
    unit="points",
    read=_read,
    mark=_mark,
    names=_names,
    upload=_upload,
    upload_form="a folder of <category>.txt for MME's eval_tool",
)
