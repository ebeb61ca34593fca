"""RefCOCO, RefCOCO+ and RefCOCOg train: referring expressions as dialogues about regions.

The expressions of one image over all three sets make one long dialogue, cut evenly into as few segments of fewer than
10 questions as it takes.

The sets are met in two shapes, both read here: the authors' `refs(unc).p` or `.json` beside `instances.json`, and
dumps whose rows hold their box, with one sentence or a list of them. Boxes are xywh in some dumps and xyxy in others;
a file that does not say so is judged as a whole: by xywh no box may leave its image, by xyxy none may be inside out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llavaflow.datasets._grounding import BOX_DROPS, BOX_REPAIRS, PROMPT, Region, ask, box_text, clipped
from llavaflow.datasets._raw import elements
from llavaflow.datasets._ref_files import INSTANCES, has_refs, named, ref_files, ref_rows
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import Reading, Source, coco_image, dialogue, rejected
from llavaflow.infra.errors import InputError

MOST_QUESTIONS = 9
NOT_TRAIN = "not-in-train-split"
# the sentences of a row that holds its own box, by the name that one or another dump gives them
TEXTS = ("expression", "sents", "sent", "sentences", "captions", "answer")
# fields of the dumps whose boxes are corners
CORNER_DIALECT = ("expression", "raw_image_info")
_COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_)?0*(\d+)(?:_\d+)?")


class Expression(NamedTuple):
    """One sentence about one box; `sides` are the four numbers as the file has them."""

    parents: tuple[str, ...]
    image: int
    text: str
    sides: tuple[float, float, float, float]
    width: int
    height: int
    split: str = "train"


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """Segments of every image's dialogue, in the order in which the files first name the images."""
    groups: dict[int, list[tuple[Expression, Region]]] = {}
    for file, prefix in named(ref_files(path, reading)):
        found = _refs(file, prefix, reading) if has_refs(file) else _flat(file, prefix, reading)
        for item in found:
            if isinstance(item, Sample):
                yield item
            else:
                groups.setdefault(item[0].image, []).append(item)
    for image, regions in groups.items():
        yield from _segments(image, regions, reading)


def _segments(image: int, regions: list[tuple[Expression, Region]], reading: Reading) -> Iterator[Sample]:
    dice = reading.random("refcoco", image)
    dice.shuffle(regions)
    count = -(-len(regions) // MOST_QUESTIONS)
    for number in range(count):
        part = regions[len(regions) * number // count : len(regions) * (number + 1) // count]
        yield Sample(
            id=f"{image:012d}_{number}",
            source="refcoco",
            images=(coco_image(image),),
            turns=dialogue([ask(region, dice) for _, region in part]),
            parents=tuple(dict.fromkeys(f"refcoco:{parent}" for item, _ in part for parent in item.parents)),
        )


Placed = tuple[Expression, Region]


def _refs(file: Path, prefix: str, reading: Reading) -> Iterator[Placed | Sample]:
    """Sentences of refs, joined with the boxes (xywh) of the instances file beside them."""
    boxes, sizes = _instances(file, reading)
    seen: set[str] = set()

    def build(raw: Mapping[str, Any]) -> list[Placed | Sample]:
        parent = f"ref/{prefix}{raw['ref_id']}"
        parents = (parent, f"instance/{prefix}{raw['ann_id']}")
        if parent in seen:
            return [rejected("refcoco", parent, "repeated-id")]
        seen.add(parent)
        if raw.get("split", "train") != "train":
            return [rejected("refcoco", parent, NOT_TRAIN)]
        image = int(raw["image_id"])
        if image not in sizes or int(raw["ann_id"]) not in boxes:
            return [rejected("refcoco", parent, "no-annotation")]
        x, y, wide, high = boxes[int(raw["ann_id"])]
        corners = (x, y, x + wide, y + high)
        texts = _texts(raw["sentences"], reading)
        return _placed([Expression(parents, image, text, corners, *sizes[image]) for text in texts], parent, reading)

    for item in reading.each("refcoco", file, ref_rows(file), build):
        yield from [item] if isinstance(item, Sample) else item


def _instances(
    file: Path, reading: Reading
) -> tuple[dict[int, tuple[float, float, float, float]], dict[int, tuple[int, int]]]:
    found = next((file.parent / name for name in INSTANCES if (file.parent / name).exists()), None)
    if found is None:
        raise InputError(f"no instances.json beside {file}: the boxes of the refs are in it.")
    boxes = dict(reading.join(found, elements(found, "annotations"), lambda raw: (int(raw["id"]), _four(raw["bbox"]))))
    return boxes, dict(reading.join(found, elements(found, "images"), _size))


def _four(sides: Any) -> tuple[float, float, float, float]:
    first, second, third, fourth = sides
    return float(first), float(second), float(third), float(fourth)


def _size(raw: Mapping[str, Any]) -> tuple[int, tuple[int, int]]:
    return int(raw["id"]), (int(raw["width"]), int(raw["height"]))


def _flat(file: Path, prefix: str, reading: Reading) -> Iterator[Placed | Sample]:
    """Rows with a box each. Whether boxes are xywh, and whether there is a train split, is decided from all rows."""
    found: list[list[Expression]] = []
    seen: set[str] = set()
    dialects: set[bool] = set()

    def build(raw: Mapping[str, Any]) -> list[Expression] | Sample:
        dialects.add(any(name in raw for name in CORNER_DIALECT))
        parent = f"ref/{prefix}{_number(raw, reading.records - 1)}"
        if parent in seen:
            return rejected("refcoco", parent, "repeated-id")
        seen.add(parent)
        return _expressions(raw, parent, reading)

    for item in reading.each("refcoco", file, ref_rows(file), build):
        if isinstance(item, Sample):
            yield item
        else:
            found.append(item)
    if any(row[0].split == "train" for row in found):
        yield from (rejected("refcoco", row[0].parents[0], NOT_TRAIN) for row in found if row[0].split != "train")
        found = [row for row in found if row[0].split == "train"]
    to_corners = _boxes_are_xywh([row[0] for row in found], reading, usually=dialects != {True})
    reading.repairs["boxes-read-as-xywh" if to_corners else "boxes-read-as-xyxy"] += len(found)
    for row in found:
        x, y, third, fourth = row[0].sides
        sides = (x, y, x + third, y + fourth) if to_corners else row[0].sides
        yield from _placed([item._replace(sides=sides) for item in row], row[0].parents[0], reading)


def _number(raw: Mapping[str, Any], place: int) -> str:
    """What a row is called: by its sentence, its ref, or its place."""
    if "sent_id" in raw:
        return f"sentence-{raw['sent_id']}"
    return str(raw["ref_id"]) if "ref_id" in raw else f"row-{place}"


def _expressions(raw: Mapping[str, Any], parent: str, reading: Reading) -> list[Expression] | Sample:
    """The sentences of a row on its box. Raises KeyError and ValueError for a row that has none."""
    name = next((str(raw[key]) for key in ("img_path", "img_id", "file_name", "image") if raw.get(key)), "")
    image = int(raw["image_id"]) if "image_id" in raw else _image_number(name)
    texts = _texts(raw[next((key for key in TEXTS if key in raw), TEXTS[0])], reading)
    size = _size_of(raw)
    if size is None:
        return rejected("refcoco", parent, "no-image-size")
    sides, split = _four(raw["bbox"]), str(raw.get("split", "train"))
    return [Expression((parent,), image, text, sides, *size, split) for text in texts or [""]]


def _texts(held: Any, reading: Reading) -> list[str]:
    """A sentence or a list of them, each as text or with its text under `raw` or `sent`."""
    items = held if isinstance(held, list) else [held]
    return [reading.text((item.get("raw") or item["sent"]) if isinstance(item, Mapping) else item) for item in items]


def _image_number(name: str) -> int:
    match = _COCO_NAME.fullmatch(Path(name).name.partition(".")[0])
    if match is None:
        raise ValueError(f"no COCO image number in '{name}'")
    return int(match.group(1))


def _size_of(raw: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height, where a row has them: its own fields, or those of the COCO image it was joined with."""
    told = raw.get("raw_image_info") or {}
    joined = json.loads(told) if isinstance(told, str) else told
    for fields, width, height in ((raw, "width", "height"), (raw, "image_width", "image_height"),
                                  (joined, "width", "height")):  # fmt: skip
        if width in fields and height in fields:
            return int(fields[width]), int(fields[height])
    return None


def _boxes_are_xywh(found: list[Expression], reading: Reading, *, usually: bool) -> bool:
    """Whether boxes are x, y, width, height: as told, or as fits the images, or as `usually` in rows of this dialect.

    Read as xywh, corners leave their images; read as corners, xywh are inside out.
    """
    told = reading.options.get("boxes")
    if told not in (None, "xywh", "xyxy"):
        raise InputError(f"boxes '{told}' of refcoco are neither xywh nor xyxy.")
    if told:
        return told == "xywh"
    outside = inside_out = 0
    for item in found:
        x, y, third, fourth = item.sides
        outside += x + third > item.width + 1 or y + fourth > item.height + 1
        inside_out += third <= x or fourth <= y
    return usually if outside == inside_out else outside < inside_out


def _placed(items: list[Expression], parent: str, reading: Reading) -> list[Placed | Sample]:
    """The sentences of one ref that can be used; the ref dropped when there are none."""
    placed = [_place(item, reading) for item in items]
    used: list[Placed | Sample] = [item for item in placed if not isinstance(item, Sample)]
    if used and len(used) < len(placed):
        reading.repairs["empty-sentence-left-out"] += len(placed) - len(used)
    return used or placed[:1] or [rejected("refcoco", parent, "empty-text")]


def _place(item: Expression, reading: Reading) -> Placed | Sample:
    if not item.text:
        return rejected("refcoco", item.parents[0], "empty-text")
    box = clipped(*item.sides, item.width, item.height, reading)
    if box is None:
        return rejected("refcoco", item.parents[0], "bad-box")
    return item, Region(item.text, box_text(box, item.width, item.height))


SOURCE = Source(
    name="refcoco",
    title="RefCOCO, RefCOCO+ and RefCOCOg, train",
    origin=("https://github.com/lichengunc/refer", "images: http://images.cocodataset.org/zips/train2017.zip"),
    licence="annotations Apache-2.0; images: terms of the Flickr photographs in COCO",
    layout="""refcoco/refs(unc).p, refcoco+/refs(unc).p, refcocog/refs(umd).p
    [{ref_id, ann_id, image_id, split, sentences: [{sent_id, sent, raw}]}]
each with instances.json beside it (COCO form, boxes xywh); the refs may be .json as well
or rows with a box each, .json, .jsonl or .parquet, with one sentence or a list of them:
    {img_id: COCO_train2014_<id>_<n>, sents, bbox: xywh, height, width}
    {img_path, expression, bbox: xyxy, image_id, sent_id, split, height, width}
    {ref_id, image_id, split, sentences: [{raw, sent}], bbox: xyxy, raw_image_info: {height, width} as text}""",
    rule="per image one dialogue over all expressions, cut evenly into segments of at most 9 questions, each question "
    "in a random one of two directions",
    read=read,
    expected={"refs": 126_908, "sentences": 321_327, "samples in mix665k": 48_447},
    images="coco/train2017",
    prompt=PROMPT,
    options={"boxes": "xywh or xyxy, what the boxes of rows are (judged from all of them)"},
    drops={
        **BOX_DROPS,
        NOT_TRAIN: "an expression of a validation or test split, in a file that has a train split",
        "no-annotation": "a ref whose box or image is not in the instances file",
    },
    repairs={
        **BOX_REPAIRS,
        "other-split-left-aside": "a file with the same expressions under another split or in another format",
        "empty-sentence-left-out": "one of a ref's sentences is empty or its box is bad",
        "boxes-read-as-xywh": "rows whose boxes were judged to be x, y, width, height",
        "boxes-read-as-xyxy": "rows whose boxes were judged to be corners",
    },
)
