"""COCO captions and instances: one caption record per image, and the captions-and-boxes context of GPT data generation.

Real files are read as they are: captions with edge whitespace, six or seven captions on an image, images without a
caption, annotations of images that are not listed, jpegs without annotations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llavaflow.datasets._grounding import clipped
from llavaflow.datasets._raw import elements, find, search
from llavaflow.datasets._sample import Box, Sample, Turn
from llavaflow.datasets._source import ONE_CAPTION, Reading, Source, question, rejected

CAPTIONS = (
    "captions_train2017.json", "annotations/captions_train2017.json", "captions_*.json", "annotations/captions_*.json",
)  # fmt: skip


@dataclass(kw_only=True, slots=True)
class Context:
    """What is written about one image: its captions and boxes, and the raw records that they come from."""

    id: int
    file_name: str
    width: int
    height: int
    captions: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per image: the instruction for a caption, and the image's first caption."""
    # captions_val2017.json speaks of images in val2017/
    folder = find(path, *CAPTIONS, source="coco").name.partition(".")[0].removeprefix("captions_")
    for item in contexts(path, reading):
        if isinstance(item, Sample):
            yield item
        elif not item.captions:
            yield rejected("coco", f"image/{item.file_name}", "no-caption")
        else:
            yield Sample(
                id=f"{item.id:012d}",
                source="coco",
                images=(f"coco/{folder}/{item.file_name}",),
                turns=(question(ONE_CAPTION), Turn(role="gpt", text=item.captions[0])),
                boxes=tuple(item.boxes),
                parents=(f"coco:image/{item.file_name}", *item.parents),
            )


def contexts(path: Path, reading: Reading) -> Iterator[Context | Sample]:
    """Every listed image with its captions and boxes; a record that cannot be used comes as a dropped Sample."""
    file = find(path, *CAPTIONS, source="coco")
    found: dict[int, Context] = {}

    def image(raw: Mapping[str, Any]) -> None | Sample:
        number = int(raw["id"])
        if number in found:
            return rejected("coco", f"image/{raw['file_name']}", "repeated-id")
        found[number] = Context(
            id=number, file_name=str(raw["file_name"]), width=int(raw["width"]), height=int(raw["height"])
        )
        return None

    for item in reading.each("coco", file, elements(file, "images"), image):
        if item is not None:
            yield item
    captions = reading.join(file, elements(file, "annotations"), lambda raw: _caption(raw, reading))
    for number, name, text in captions:
        if text and number in found:
            found[number].captions.append(text)
            found[number].parents.append(name)
        else:
            reading.repairs["caption-left-out"] += 1
    _add_boxes(_instances(path, file), found, reading)
    yield from found.values()


def _caption(raw: Mapping[str, Any], reading: Reading) -> tuple[int, str, str]:
    """The image of a caption, its name and its text."""
    return int(raw["image_id"]), f"coco:caption/{raw['id']}", reading.text(raw["caption"])


def _instances(path: Path, captions: Path) -> Path | None:
    """The instances file that belongs to a captions file; None when it is absent."""
    name = captions.name.removesuffix(".gz").replace("captions_", "instances_")
    found = search(captions.parent, name, source="coco")
    return None if found == captions else found


def _add_boxes(file: Path | None, found: Mapping[int, Context], reading: Reading) -> None:
    if file is None:
        return
    names = dict(reading.join(file, elements(file, "categories"), lambda raw: (int(raw["id"]), str(raw["name"]))))

    def add(raw: Mapping[str, Any]) -> None:
        context, (x, y, wide, high) = found.get(int(raw["image_id"])), raw["bbox"]
        name, label = f"coco:instance/{raw['id']}", names.get(int(raw["category_id"]), "object")
        corners = (x, y, x + wide, y + high)
        box = clipped(*corners, context.width, context.height, reading) if context else None
        if context is None or box is None or raw.get("iscrowd"):
            reading.repairs["instance-left-out"] += 1
            return
        context.boxes.append(replace(box, label=label))
        context.parents.append(name)

    for _ in reading.join(file, elements(file, "annotations"), add):
        pass


SOURCE = Source(
    name="coco",
    title="COCO 2017 captions and instances, train",
    origin=(
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        "images: http://images.cocodataset.org/zips/train2017.zip",
    ),
    licence="annotations CC BY 4.0; images: terms of the Flickr photographs",
    layout="""annotations/captions_train2017.json
    {"images": [{id, file_name, width, height}], "annotations": [{id, image_id, caption}]}
annotations/instances_train2017.json   (optional)
    {"annotations": [{id, image_id, category_id, bbox: xywh, iscrowd}], "categories": [{id, name}]}
train2017/<file_name>""",
    rule="one record per image with its first caption; all captions and boxes stay available to data generation",
    read=read,
    expected={"images": 118_287, "captions": 591_753, "instances": 860_001},
    images="coco/train2017",
    prompt=ONE_CAPTION,
    drops={"no-caption": "an image without any caption"},
    repairs={
        "caption-left-out": "an empty caption, or one of an image that is not listed",
        "instance-left-out": "a crowd, an empty box, or a box of an image that is not listed",
        "box-clipped": "a box that reached outside the image was cut to it",
    },
)
