"""Questions: the questions, gold and pictures of published benchmarks, brought from a folder into the store.

    FOLDER/<benchmark>/questions.jsonl   {"question_id", "image", "text", "category"}, as LLaVA's question files
    FOLDER/<benchmark>/...               the gold in its authors' layout (`pipeline show benchmark:NAME` prints it)
    FOLDER/images/...                    every picture, under the name that the questions use

They are copied under `eval/`, where an evaluation looks for them, with an index: an answer leads back to its question
and its picture. A question whose picture is missing stops the stage, before a GPU is asked anything. A benchmark whose
gold holds questions and pictures (MMBench's table) needs no more than its gold.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import orjson

from llavaflow.datasets._images import ImageFolder
from llavaflow.datasets._index import IndexWriter, sha256_bytes
from llavaflow.datasets.benchmarks._benchmark import Question, load_benchmark
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError
from llavaflow.stages._exam import IMAGES, QUESTIONS
from llavaflow.stages._stage import Stage

SOURCE = "questions"
TOLD = 5


@dataclass(frozen=True, kw_only=True)
class Questions(Stage):
    """The folder, and which benchmarks of it are taken."""

    kind: ClassVar[Kind] = "shards"

    folder: Path
    benchmarks: tuple[str, ...]

    def run(self, ctx: RunContext) -> Artifact:
        shutil.rmtree(ctx.out, ignore_errors=True)
        counts: dict[str, int] = {}
        images: set[str] = set()
        with IndexWriter(ctx.out) as index:
            for name in ctx.track(self.benchmarks, "benchmarks", total=len(self.benchmarks)):
                rows = self._benchmark(ctx.out, name, index)
                counts[name] = len(rows)
                images.update(rows)
            self._images(ctx.out, sorted(images - {""}), index)
        shown = len(images - {""})
        return ctx.finish({"samples": sum(counts.values()), "questions": counts, "images": shown, "dropped": {}})

    def _benchmark(self, out: Path, name: str, index: IndexWriter) -> list[str]:
        """Copy one benchmark and index its questions; the picture of each, empty for a question in words alone."""
        source, target = self.folder / name, out / "eval" / name
        file = source / QUESTIONS
        ask = load_benchmark(name).ask
        if not file.is_file() and not (ask and source.is_dir()):
            there = ", ".join(sorted(entry.name for entry in self.folder.glob("*/"))) or "nothing"
            raise InputError(f"no questions for {name}: looked for {file}; {self.folder} holds {there}.")
        shutil.copytree(source, target)
        if ask and not file.is_file():
            _unpack(ask(source), target / QUESTIONS, out / IMAGES)
        rows = list(_lines(target / QUESTIONS))
        for number, (line, _) in enumerate(rows):
            place = f"eval/{name}/{QUESTIONS}"
            index.add(f"{name}/{number}", source=SOURCE, sha256=sha256_bytes(line), file=place, row=number)
        return [image for _, image in rows]

    def _images(self, out: Path, names: list[str], index: IndexWriter) -> None:
        given = self.folder / "images"
        folder = ImageFolder(out / IMAGES, given)
        found = {name: folder.find(name) for name in names}
        missing = [name for name, path in found.items() if path is None]
        if missing:
            shown = ", ".join(missing[:TOLD])
            raise InputError(f"{len(missing)} pictures of questions are not under {given}, such as {shown}.")
        for name, path in found.items():
            assert path is not None, "refused above"
            target = out / IMAGES / name
            if path != target:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            digest = sha256_bytes(target.read_bytes())
            index.add(f"image/{name}", source=SOURCE, sha256=digest, file=f"{IMAGES}/{name}", row=0)


def _unpack(asked: Iterable[Question], file: Path, images: Path) -> None:
    """Write a benchmark's questions as LLaVA's question lines, and every picture once."""
    lines = []
    for question in asked:
        if not question.picture:
            raise InputError(f"{file.parent.name}: question {question.id} has no picture in its table.")
        target = images / question.image
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(question.picture)
        lines.append(orjson.dumps({"question_id": question.id, "image": question.image, "text": question.text}))
    file.write_bytes(b"\n".join(lines) + b"\n")


def _lines(file: Path) -> Iterator[tuple[bytes, str]]:
    """Every question line and the picture it names. Raises InputError for one that is no question."""
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            row = orjson.loads(line)
            missing = [key for key in ("question_id", "text") if key not in row]
            image = str(row.get("image") or "")
        except (orjson.JSONDecodeError, TypeError, AttributeError) as error:
            raise InputError(f"{file}, line {number}: not a JSON object ({error}).") from error
        if missing:
            raise InputError(f"{file}, line {number}: a question without {' and '.join(missing)}.")
        if image.startswith("/") or ".." in image.split("/"):
            raise InputError(f"{file}, line {number}: the picture {image} leads out of the image folder.")
        yield line, image
