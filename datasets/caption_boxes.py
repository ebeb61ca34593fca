"""Captions and boxes of images, one JSON record per line: what GPT data generation is asked with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llavaflow.datasets._raw import find, rows
from llavaflow.datasets._sample import Box, Sample, Turn
from llavaflow.datasets._source import ONE_CAPTION, Reading, Source, question, rejected


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per image: the instruction for a caption and its first caption; boxes are 0..1 of the image."""
    file = find(path, "*.jsonl", "*.json", source="caption-boxes")
    seen: set[str] = set()

    def build(raw: dict[str, Any]) -> Sample:
        number = str(raw["id"])
        parent = f"image/{number}"
        if number in seen:
            return rejected("caption-boxes", parent, "repeated-id")
        seen.add(number)
        captions = [text for text in map(reading.text, raw["captions"]) if text]
        if not captions:
            return rejected("caption-boxes", parent, "no-caption")
        return Sample(
            id=number,
            source="caption-boxes",
            images=(str(raw["image"]),),
            turns=(question(ONE_CAPTION), Turn(role="gpt", text=captions[0])),
            boxes=tuple(box for box in (_box(item, reading) for item in raw.get("instances", ())) if box),
            parents=(f"caption-boxes:{parent}",),
        )

    yield from reading.each("caption-boxes", file, rows(file), build)


def _box(item: dict[str, Any], reading: Reading) -> Box | None:
    x1, y1, x2, y2 = (min(max(float(side), 0.0), 1.0) for side in item["bbox"])
    if x2 > x1 and y2 > y1:
        return Box(x1=x1, y1=y1, x2=x2, y2=y2, label=str(item["category"]))
    reading.repairs["box-left-out"] += 1
    return None


SOURCE = Source(
    name="caption-boxes",
    title="Captions and boxes per image, as JSON lines",
    origin=("made from COCO captions and instances (`coco`)",),
    licence="that of the images and captions it was made from",
    layout="<name>.jsonl   {id, image, captions: [..], instances: [{category, bbox: [x1, y1, x2, y2] in 0..1}]}",
    rule="one sample per image with its first caption",
    read=read,
    prompt=ONE_CAPTION,
    drops={"no-caption": "an image without any caption"},
    repairs={"box-left-out": "a box without area"},
)
