"""ChartQA train: questions on charts, by people and generated, merged to one conversation per chart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from llavaflow.datasets._merge import MERGE_DROPS, Asked, Merge
from llavaflow.datasets._raw import find, rows, search
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import Reading, Source

PROMPT = "Answer the question with a single word."
HUMAN = ("train_human.json", "train/train_human.json", "ChartQA Dataset/train/train_human.json")
AUGMENTED = ("train_augmented.json", "train/train_augmented.json", "ChartQA Dataset/train/train_augmented.json")


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per chart: the questions by people first, then the generated ones."""
    parts = [] if path.is_file() else [search(path, *names, source="chartqa") for names in (HUMAN, AUGMENTED)]
    files = [file for file in parts if file] or [find(path, *HUMAN, *AUGMENTED, "*.jsonl", source="chartqa")]
    merge = Merge(
        source="chartqa",
        prompt=PROMPT,
        image_path=lambda image: f"chartqa/train/png/{image}",
        sample_id=lambda image: PurePosixPath(image).stem,
    )
    yield from merge.samples(_asked(files, reading))


def _asked(files: list[Path], reading: Reading) -> Iterator[Asked | Sample]:
    for file in files:
        part = file.name.partition(".")[0]
        count = iter(range(1 << 62))

        def build(raw: dict[str, Any], part: str = part, count: Iterator[int] = count) -> Asked:
            asked = reading.text(raw["query"] if "query" in raw else raw["question"]).split("\nAnswer the question")[0]
            image = raw["imgname"] if "imgname" in raw else raw["image"]
            answer = reading.text(raw["label"] if "label" in raw else raw["answer"])
            # records have no id of their own: the file and the place name them
            return Asked(f"{part}/{next(count)}", PurePosixPath(image).name, asked, answer)

        yield from reading.each("chartqa", file, rows(file), build)


SOURCE = Source(
    name="chartqa",
    title="ChartQA, train (human and augmented)",
    origin=("https://github.com/vis-nlp/ChartQA",),
    licence="GPL-3.0",
    layout="""train/train_human.json, train/train_augmented.json   [{imgname, query, label}]
train/png/<imgname>""",
    rule="all questions on one chart become one conversation, the ones by people first",
    read=read,
    expected={"questions": 28_299, "human": 7_398, "augmented": 20_901, "images": 18_317},
    images="chartqa/train/png",
    prompt=PROMPT,
    drops=MERGE_DROPS,
)
