"""LLaVA-Instruct in its three published parts: put together to the 158K, or the 80K chosen from them.

The 158K are conversation, detail and complex reasoning behind each other. The 80K are 40,000 conversations and 40,000
complex records that share no image: an image of one part only is kept for that part, and those that both show are
dealt out by the seed so that both parts get their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from llavaflow.datasets._raw import find
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import Reading
from llavaflow.datasets.llava_json import SOURCE as LLAVA_JSON
from llavaflow.datasets.llava_json import records
from llavaflow.infra.errors import InputError

CONVERSATION = ("conversation_58k.json", "conversation*.json")
DETAIL = ("detail_23k.json", "detail*.json")
COMPLEX = ("complex_reasoning_77k.json", "complex*.json")
# the published sample size: 40K conversations and 40K complex records
HALF = 40_000
SETS = ("158k", "80k")


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """The records of the wanted set, in the order of the parts and their files."""
    wanted = reading.options.get("records", SETS[0])
    if wanted not in SETS:
        raise InputError(f"records '{wanted}' of llava-instruct is neither of {', '.join(SETS)}.")
    if path.is_file():
        raise InputError(f"{path} is one file: give the folder with the parts, or read one part as llava-json.")
    parts = (CONVERSATION, DETAIL, COMPLEX) if wanted == "158k" else (CONVERSATION, COMPLEX)
    files = [find(path, *names, source="llava-instruct") for names in parts]
    ids: dict[str, int] = {}
    read_parts = [records(file, reading, source="llava-instruct", ids=ids) for file in files]
    if wanted == "158k":
        yield from chain.from_iterable(read_parts)
        return
    talks, reasoning = [list(part) for part in read_parts]
    for part, images in zip((talks, reasoning), _dealt(_shown(talks), _shown(reasoning), reading), strict=True):
        for sample in part:
            # an image has one record in a part: a second one would show it twice
            taken = sample.dropped or sample.images in images
            images.discard(sample.images)
            yield sample if taken else sample.drop("not-sampled")


Images = tuple[str, ...]


def _shown(part: list[Sample]) -> list[Images]:
    """The images of a part, each once, in its order."""
    return list(dict.fromkeys(sample.images for sample in part if not sample.dropped))


def _dealt(talks: list[Images], reasoning: list[Images], reading: Reading) -> tuple[set[Images], set[Images]]:
    """The images that each part shows of the sample: at most HALF each, and none in both."""
    common = set(talks) & set(reasoning)
    own = [[image for image in part if image not in common] for part in (talks, reasoning)]
    both = [image for image in talks if image in common]
    dice = reading.random("llava-instruct", "80k")
    for images in (*own, both):
        dice.shuffle(images)
    lacking = [max(0, HALF - len(images)) for images in own]
    if sum(lacking) > len(both):
        first = round(len(both) * lacking[0] / sum(lacking))
        lacking = [first, len(both) - first]
    shared = [both[: lacking[0]], both[lacking[0] : sum(lacking)]]
    first_part, second_part = (set((alone + given)[:HALF]) for alone, given in zip(own, shared, strict=True))
    return first_part, second_part


SOURCE = replace(
    LLAVA_JSON,
    name="llava-instruct",
    title="LLaVA-Instruct: 158K whole, or the 80K sample",
    origin=("https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",),
    licence="CC BY 4.0, with the terms of GPT-4's provider",
    layout="""conversation_58k.json, detail_23k.json, complex_reasoning_77k.json
    LLaVA JSON, with COCO images by bare name; the 80K need no detail_23k.json""",
    rule=f"158k: the three parts behind each other; 80k: {HALF:,} conversations and {HALF:,} complex records that "
    "share no image, drawn by the seed",
    read=read,
    expected={"158k": 157_712, "80k": 2 * HALF},
    images="coco/train2017",
    options={**LLAVA_JSON.options, "records": "158k or 80k (158k)"},
)
