"""Gates on records that already lie there: the first of each file are read as the stage itself will read all of them.

A file that is not there is the gate `files`; one that is made by an earlier stage is looked at when it is made. What
is found here is found in a second and not after the images of a whole set were packed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import orjson

from llavaflow.datasets._images import ImageFolder
from llavaflow.datasets._mixture import MIXTURES
from llavaflow.datasets.benchmarks._benchmark import benchmark_names, load_benchmark
from llavaflow.infra.errors import InputError
from llavaflow.pipelines._gates import Gate, Preflight, Problem, refuse
from llavaflow.pipelines._recipe import Recipe
from llavaflow.pipelines._volume import estimate_volume
from llavaflow.stages._exam import QUESTIONS
from llavaflow.stages.download import Download
from llavaflow.stages.evaluate import Evaluate
from llavaflow.stages.judge import Judge
from llavaflow.stages.mix import Mix
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.questions import Questions
from llavaflow.stages.train import Train

SAMPLE = 1000
# below this a whole language model learns its records by heart
SMALL = 500
# below the expected yield, so that a somewhat worse week does not stop a download
MARGIN = 0.05
IMAGES = ("missing-image", "broken-image", "image-too-large", "wrong-extension")
MARKS = ("image-count-mismatch", "image-in-answer", "plain-needs-one-image-pair")
MEND = {
    "records": "`pipeline data check FILE --fix OUT` writes a repaired copy",
    "images": "fetch what is missing, or leave bad records out with --set {name}.tolerate=SHARE",
    "image_tokens": "`pipeline data check FILE --fix OUT` makes one <image> per image",
    "reserved_strings": "take the mark out of the text, or leave these records out with --set {name}.tolerate=SHARE",
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the first records of a file show: how many, and of every kind of finding the count and the first."""

    records: int
    found: Mapping[str, tuple[int, str]]
    error: str = ""


def _own(preflight: Preflight) -> Iterator[tuple[str, OwnData, Look]]:
    for name, stage in preflight.waiting():
        if isinstance(stage, OwnData) and stage.file is not None and all(map(Path.exists, stage.outside().values())):
            yield name, stage, preflight.remembered(f"records of {name}", partial(_look, stage))


def _look(stage: OwnData) -> Look:
    from llavaflow.datasets._records import open_records
    from llavaflow.stages._check import Gate as Examiner
    from llavaflow.stages._check import Rules

    assert stage.file is not None, "only stages with a file are looked at"
    found: dict[str, tuple[int, str]] = {}
    count = 0
    try:
        records = open_records(stage.file, stage.images)
        examiner = Examiner(rules=Rules(template=stage.template, images=records.images))
        for checked in examiner.examine(islice(records.rows(), SAMPLE)):
            count += 1
            for finding in checked.findings:
                seen, first = found.get(finding.kind, (0, f"{finding.id}: {finding.detail}".rstrip(": ")))
                found[finding.kind] = (seen + 1, first)
    except InputError as error:
        return Look(records=count, found=found, error=str(error))
    return Look(records=count, found=found)


def _problems(preflight: Preflight, gate: str, kinds: tuple[str, ...] | None) -> Iterator[Problem]:
    """A problem for every kind of finding that belongs to a gate; None: the errors that no other gate names."""
    from llavaflow.stages._check_record import ERRORS

    others = {*IMAGES, *MARKS, "reserved-string"}
    for name, stage, look in _own(preflight):
        for kind, (count, first) in look.found.items():
            if kind in kinds if kinds else kind in ERRORS and kind not in others:
                what = f"{kind} in {count} of the first {look.records} records, such as {first}"
                tolerated = count <= stage.tolerate * look.records or kind not in ERRORS
                mend = MEND[gate].format(name=name)
                yield Problem(what=what, where=str(stage.file), mend=mend, warning=tolerated)


def records(preflight: Preflight) -> Iterator[Problem]:
    """Records have turns, alternating and not empty, and a file holds any."""
    for name, stage, look in _own(preflight):
        if look.error or not look.records:
            mend = f"--set {name}.file=FILE with LLaVA JSON, or --set {name}.images=FOLDER"
            yield Problem(what=look.error or "the file holds no records", where=str(stage.file), mend=mend)
    yield from _problems(preflight, "records", None)


def images(preflight: Preflight) -> Iterator[Problem]:
    """Every image is there, decodes, and is what its suffix says."""
    yield from _problems(preflight, "images", IMAGES)


def image_tokens(preflight: Preflight) -> Iterator[Problem]:
    """As many <image> in the text as images in the record."""
    yield from _problems(preflight, "image_tokens", MARKS)


def reserved_strings(preflight: Preflight) -> Iterator[Problem]:
    """No text holds a mark of the template, which would end an answer in its middle."""
    yield from _problems(preflight, "reserved_strings", ("reserved-string",))


def small_data(preflight: Preflight) -> Iterator[Problem]:
    """A small set does not train a whole language model."""
    few = {name: look.records for name, _, look in _own(preflight) if look.records < SMALL}
    for name, stage in preflight.waiting():
        if isinstance(stage, Train) and "language_model" in stage.trainable and not stage.lora:
            data = preflight.recipe.name_of(stage.data)
            if data in few:
                what = f"{few[data]} records train a whole language model: it learns them by heart and forgets the rest"
                mend = "train adapters (finetune-task-lora), mix in released data, and keep to one epoch"
                yield Problem(what=what, where=name, mend=mend, warning=True)


def mixture(preflight: Preflight) -> Iterator[Problem]:
    """A mixture under a published name has all of its parts, and holds each against the published count."""
    for name, stage in preflight.waiting():
        published = MIXTURES.get(stage.mixture) if isinstance(stage, Mix) else None
        if not isinstance(stage, Mix) or published is None:
            continue
        given = {component.name: component for component in stage.components}
        wanted = [part for part in published.parts if part.expected and not part.unpublished]
        for part in wanted:
            if part.name not in given:
                what = f"{part.name} with its {part.expected:,} records is missing from {published.name}"
                mend = "add the component; published scores are of the whole mixture"
                yield Problem(what=what, where=f"{name}.components", mend=mend, warning=not stage.strict)
            elif stage.strict and given[part.name].expected != part.expected:
                what = f"{part.name} is held against {given[part.name].expected}, published are {part.expected:,}"
                mend = f"--set '{name}.components[{list(given).index(part.name)}].expected={part.expected}'"
                yield Problem(what=what, where=f"{name}.components", mend=mend)


def addresses(preflight: Preflight) -> Iterator[Problem]:
    """A download does not ask for more images than the dead addresses of its set leave."""
    for name, stage in preflight.waiting():
        if isinstance(stage, Download) and (loss := estimate_volume(stage).expected_loss):
            if stage.success_floor > 1 - loss:
                what = f"{stage.success_floor:.0%} of the images must come, users have lost {loss:.0%} of such a set"
                mend = f"--set {name}.success_floor={1 - loss - MARGIN:.2f}, or take the published archive of images"
                yield Problem(what=what, where=f"{name}.success_floor", mend=mend)


def unbrought(recipe: Recipe, names: Collection[str]) -> Iterator[Problem]:
    """Benchmarks that do not exist, are asked and not brought, or are scored by none or another than they need.

    An evaluation ends over them, after training.
    """
    for name in names:
        stage = recipe.stages[name]
        asked: Collection[str] = ()
        if isinstance(stage, (Evaluate, Judge)):
            yield from _unjudged(name, stage)
        if isinstance(stage, Questions):
            asked = stage.benchmarks
        elif isinstance(stage, Evaluate) and isinstance(stage.questions, Questions):
            asked = dict.fromkeys((*stage.benchmarks, *(stage.review.benchmarks if stage.review else ())))
            source, brought = recipe.name_of(stage.questions), stage.questions.benchmarks
            if missing := [known for known in asked if known in benchmark_names() and known not in brought]:
                what = f"{name} asks {', '.join(missing)}, and {source} brings {', '.join(brought) or 'nothing'}"
                mend = f"--set {source}.benchmarks={','.join((*brought, *missing))}"
                yield Problem(what=what, where=f"{source}.benchmarks", mend=mend)
        for unknown in (benchmark for benchmark in asked if benchmark not in benchmark_names()):
            mend = f"choose out of {', '.join(benchmark_names())}"
            yield Problem(what=f"there is no benchmark '{unknown}'", where=f"{name}.benchmarks", mend=mend)


def _unjudged(name: str, stage: Evaluate | Judge) -> Iterator[Problem]:
    """Open benchmarks among those of a rule, which has no number for them, and the other way round."""
    by_rule = stage.benchmarks if isinstance(stage, Evaluate) else ()
    reviewed = stage.review.benchmarks if stage.review else ()
    for known in (benchmark for benchmark in by_rule if _judged(benchmark)):
        mend = f"--set {name}.review.benchmarks={','.join((*reviewed, known))}, and leave it out of {name}.benchmarks"
        yield Problem(what=f"{known} is scored by a judge alone", where=f"{name}.benchmarks", mend=mend)
    for known in (benchmark for benchmark in reviewed if not _judged(benchmark)):
        what = f"{known} is scored by its rule, or unknown, and no judge reviews it"
        yield Problem(what=what, where=f"{name}.review.benchmarks", mend=f"leave it out of {name}.review.benchmarks")


def _judged(benchmark: str) -> bool:
    return benchmark in benchmark_names() and load_benchmark(benchmark).judged


def refuse_unbrought(recipe: Recipe, missing: Collection[str]) -> None:
    """Raise InputError when a stage that would be made asks a benchmark that will not be there."""
    refuse(unbrought(recipe, missing))


def questions(preflight: Preflight) -> Iterator[Problem]:
    """Every benchmark that is asked exists and has its questions in the folder, the first of them their pictures."""
    yield from unbrought(preflight.recipe, [name for name, _ in preflight.waiting()])
    for _, stage in preflight.waiting():
        if not isinstance(stage, Questions) or not stage.folder.is_dir():
            continue
        there = ", ".join(sorted(entry.name for entry in stage.folder.glob("*/"))) or "nothing"
        for benchmark in (known for known in stage.benchmarks if known in benchmark_names()):
            file = stage.folder / benchmark / QUESTIONS
            # the gold of some holds the questions too
            if not file.is_file() and load_benchmark(benchmark).ask and file.parent.is_dir():
                continue
            if not file.is_file():
                mend = f"put it there (`pipeline show benchmark:{benchmark}` tells how), or ask other benchmarks"
                what = f"{benchmark} has no {QUESTIONS}; the folder holds {there}"
                yield Problem(what=what, where=str(file), mend=mend)
                continue
            try:
                missing = _pictures_missing(stage.folder, file)
            except ValueError as error:
                mend = f"one JSON object a line (`pipeline show benchmark:{benchmark}` tells how)"
                yield Problem(what=f"{benchmark}: a line is no question ({error})", where=str(file), mend=mend)
                continue
            if missing:
                what = f"{benchmark}: {len(missing)} pictures of its first questions are missing, such as {missing[0]}"
                yield Problem(what=what, where=str(stage.folder / "images"), mend="put them there")


def _pictures_missing(folder: Path, file: Path) -> list[str]:
    with file.open("rb") as lines:
        rows = [orjson.loads(line) for line in islice(lines, SAMPLE) if line.strip()]
    if other := next((row for row in rows if not isinstance(row, dict)), None):
        raise ValueError(f"{other!r:.40} is no object")
    images = ImageFolder(folder / "images")
    return [image for row in rows if (image := str(row.get("image") or "")) and images.find(image) is None]


DATA: tuple[Gate, ...] = (
    records, images, image_tokens, reserved_strings, small_data, mixture, addresses, questions,
)  # fmt: skip
