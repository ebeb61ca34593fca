"""Gates on records that already lie there: the first of each file are read as the stage itself will read all of them.

A file that is not there is the gate `files`; one that is made by an earlier stage is looked at when it is made. What
is found here is found in a second and not after the images of a whole set were packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

from llavaflow.infra.errors import InputError
from llavaflow.pipelines._gates import Gate, Preflight, Problem
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.train import Train

SAMPLE = 1000
# below this a whole language model learns its records by heart
SMALL = 500
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
        if isinstance(stage, OwnData) and stage.file is not None and stage.file.exists():
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


DATA: tuple[Gate, ...] = (records, images, image_tokens, reserved_strings, small_data)
