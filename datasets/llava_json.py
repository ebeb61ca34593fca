"""LLaVA JSON: records that are already conversations, as a JSON list, JSON lines, or the parquet of LLaVA-NeXT.

Nothing is rewritten but ids (always text) and edge whitespace; a record that could not be trained on is dropped by
name. The image token keeps its place; its position is normalised when the conversation is rendered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llavaflow.datasets._raw import find, rows
from llavaflow.datasets._records import next_rows
from llavaflow.datasets._sample import IMAGE_TOKEN, Role, Sample, Turn
from llavaflow.datasets._source import Reading, Source, rejected

ROLES: Mapping[str, Role] = {"human": "human", "gpt": "gpt", "user": "human", "assistant": "gpt"}
_KNOWN = ("id", "image", "conversations")


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per record, in file order."""
    yield from records(path, reading, source="llava-json")


def records(path: Path, reading: Reading, *, source: str, ids: dict[str, int] | None = None) -> Iterator[Sample]:
    """The records of a LLaVA JSON file under any source's name; `ids` counts those of the files read before it."""
    patterns = ("data.jsonl", "*.jsonl", "*.json", "*.parquet", "data/*.parquet")
    file = find(path, *patterns, source=source)
    ids = {} if ids is None else ids
    prefix = reading.options.get("prefix", "").rstrip("/")

    def build(raw: Mapping[str, Any]) -> Sample:
        number = _name(raw, ids, reading)
        turns, fault = _turns(raw["conversations"], reading)
        images = _images(raw.get("image"), prefix)
        fault = fault or image_fault(turns, images)
        parent = f"record/{number}"
        if fault:
            return rejected(source, parent, fault)
        extra = {key: value for key, value in raw.items() if key not in _KNOWN}
        return Sample(
            id=number, source=source, images=images, turns=turns, parents=(f"{source}:{parent}",), extra=extra
        )

    yield from reading.each(source, file, raw_records(file), build)


def raw_records(file: Path) -> Iterator[Any]:
    """The records of a LLaVA JSON list, JSON lines or parquet file, as they are."""
    return next_rows(file) if file.suffix == ".parquet" else rows(file)


def image_fault(turns: tuple[Turn, ...], images: tuple[str, ...]) -> str | None:
    """Why the image tokens of a conversation do not fit its images, or None."""
    if any(IMAGE_TOKEN in turn.text for turn in turns if turn.role == "gpt"):
        return "image-in-answer"
    tokens = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    return None if tokens == len(images) else "image-count-mismatch"


def _name(raw: Mapping[str, Any], ids: dict[str, int], reading: Reading) -> str:
    """The id as text; a repeated one gets a suffix, since released mixtures share ids between components."""
    number = raw.get("id")
    if number is None:
        reading.repairs["id-made-up"] += 1
        number = f"record-{reading.records - 1}"
    elif type(number) is not str:
        reading.repairs["id-as-text"] += 1
    name = str(number)
    unused = unused_name(name, ids)
    if unused != name:
        reading.repairs["repeated-id-suffixed"] += 1
    return unused


def unused_name(name: str, counts: dict[str, int]) -> str:
    """The name, or with #2, #3, ... behind it when it is taken; `counts` says how often each was asked for."""
    count = counts[name] = counts.get(name, 0) + 1
    if count == 1:
        return name
    while (suffixed := f"{name}#{count}") in counts:
        count += 1
    counts[name], counts[suffixed] = count, 1
    return suffixed


def _turns(raw: list[Mapping[str, Any]], reading: Reading) -> tuple[tuple[Turn, ...], str | None]:
    turns = []
    for turn in raw:
        role = ROLES.get(turn["from"])
        if role is None:
            return (), "unknown-speaker"
        text = turn["value"]
        if not isinstance(text, str):
            raise TypeError(f"value must be text, not {type(text).__name__}")
        clean = text.strip()
        if len(clean) != len(text):
            reading.repairs["edge-whitespace"] += 1
        turns.append(Turn(role=role, text=clean))
    if not turns or len(turns) % 2 or any(turn.role != ("human", "gpt")[place % 2] for place, turn in enumerate(turns)):
        return tuple(turns), "not-alternating"
    empty = next((turn.role for turn in turns if not turn.text), None)
    return tuple(turns), empty and {"human": "empty-question", "gpt": "empty-answer"}[empty]


def _images(raw: Any, prefix: str) -> tuple[str, ...]:
    if not raw:
        return ()
    names = (raw,) if isinstance(raw, str) else tuple(raw)
    if not all(isinstance(name, str) for name in names):
        raise TypeError("image must be a path or a list of paths")
    return tuple([f"{prefix}/{name}" if prefix and "/" not in name else name for name in names])


SOURCE = Source(
    name="llava-json",
    title="LLaVA JSON and LLaVA-NeXT parquet",
    origin=(
        "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
        "https://huggingface.co/datasets/lmms-lab/LLaVA-NeXT-Data",
    ),
    licence="CC BY 4.0 for LLaVA-Instruct, with the terms of its generator; otherwise that of the file",
    layout="""<name>.json, <name>.jsonl   [{id, image: path | [paths], conversations: [{from: human|gpt, value}]}]
<name>.parquet              columns id, image {bytes, path}, conversations, data_source""",
    rule="one sample per record, unchanged but for text ids and edge whitespace",
    read=read,
    expected={"llava_instruct_150k.json": 157_712, "llava_v1_5_mix665k.json": 665_298, "LLaVA-NeXT-Data": 779_289},
    options={"prefix": "folder put before bare image names (coco/train2017 for the LLaVA-Instruct files)"},
    drops={
        "unknown-speaker": "a turn from neither human nor gpt",
        "not-alternating": "turns are not human, gpt, human, gpt, ...",
        "empty-question": "a human turn is empty",
        "empty-answer": "a gpt turn is empty",
        "image-count-mismatch": "the number of <image> differs from the number of images",
        "image-in-answer": "a gpt turn holds <image>",
    },
    repairs={
        "id-as-text": "an id that is a number was written as text",
        "id-made-up": "a record without id was named by its place",
        "repeated-id-suffixed": "an id that occurred before got #2, #3, ... behind it",
    },
)
