"""RefCOCO, RefCOCO+ and RefCOCOg train: referring expressions as dialogues about regions.

The expressions of one image over all three sets make one long dialogue, cut evenly into as few segments of fewer than
10 questions as it takes.

The sets are met in four shapes, all read here: the authors' `refs(unc).p` or `.json` beside `instances.json`, with a
list of sentences per ref, and flat rows per sentence in two dialects. Boxes are xywh in some dumps and xyxy in others;
a file that does not say so is judged as a whole: by xywh no box may leave its image, by xyxy none may be inside out.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llavaflow.datasets._grounding import BOX_DROPS, BOX_REPAIRS, PROMPT, Region, ask, box_text, clipped
from llavaflow.datasets._raw import elements, open_raw, rows
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import Reading, Source, coco_image, dialogue, rejected
from llavaflow.infra.errors import InputError

MOST_QUESTIONS = 9
NOT_TRAIN = "not-in-train-split"
INSTANCES = ("instances.json", "instances.json.gz")


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
    for file, prefix in _named(_files(path)):
        found = _refs(file, prefix, reading) if _has_refs(file) else _flat(file, prefix, reading)
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


def _files(path: Path) -> list[Path]:
    """The files with expressions: `path` itself, or those in it and in its folders (one per set)."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} does not exist. Give the folder that holds the raw files of refcoco.")
    endings = (".p", ".json", ".jsonl", ".json.gz", ".jsonl.gz")
    found = [entry for entry in sorted(path.rglob("*")) if entry.name.endswith(endings) and entry.is_file()]
    found = [entry for entry in found if entry.name not in INSTANCES]
    if not found:
        raise InputError(f"no refs(*).p, refs(*).json or *.jsonl under {path}. See `pipeline show source:refcoco`.")
    return found


def _named(files: list[Path]) -> Iterator[tuple[Path, str]]:
    """Each file with what its ids are prefixed by: the sets number their refs alike."""
    folders = Counter(file.parent for file in files)
    for file in files:
        alone = file.parent.name if folders[file.parent] == 1 else file.name
        yield file, "" if len(files) == 1 else f"{alone}/"


def _has_refs(file: Path) -> bool:
    """Whether rows are refs with a list of sentences (rather than one row per sentence)."""
    first = next(iter(_rows(file)), None)
    return isinstance(first, Mapping) and "sentences" in first


def _rows(file: Path) -> Iterable[Any]:
    return _unpickled(file) if file.suffix == ".p" else rows(file)


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles lists, dicts, texts and numbers; anything that would import code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _unpickled(file: Path) -> list[Any]:
    with open_raw(file) as stream:
        data = stream.read()
    try:
        refs = _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        raise InputError(f"{file} is not a pickle of plain lists and dicts: {error}. It was not loaded.") from error
    if not isinstance(refs, list):
        raise InputError(f"{file} holds no list of refs but {type(refs).__name__}.")
    return refs


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
        texts = [reading.text(sentence.get("raw") or sentence["sent"]) for sentence in raw["sentences"]]
        corners = (x, y, x + wide, y + high)
        placed = [_place(Expression(parents, image, text, corners, *sizes[image]), reading) for text in texts]
        used = [item for item in placed if not isinstance(item, Sample)]
        if used and len(used) < len(placed):
            reading.repairs["empty-sentence-left-out"] += len(placed) - len(used)
        return [*used] if used else placed[:1] or [rejected("refcoco", parent, "empty-text")]

    for item in reading.each("refcoco", file, _rows(file), build):
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
    """One row per sentence. Whether its boxes are xywh, and whether it has a train split, is decided from all rows."""
    found: list[Expression] = []
    seen: set[str] = set()

    def build(raw: Mapping[str, Any]) -> Expression | Sample:
        item = _expression(raw, f"{prefix}{raw.get('sent_id', f'row-{reading.records - 1}')}", reading)
        if item.parents[0] in seen:
            return rejected("refcoco", item.parents[0], "repeated-id")
        seen.add(item.parents[0])
        return item

    for item in reading.each("refcoco", file, rows(file), build):
        if isinstance(item, Sample):
            yield item
        else:
            found.append(item)
    if any(item.split == "train" for item in found):
        yield from (rejected("refcoco", item.parents[0], NOT_TRAIN) for item in found if item.split != "train")
        found = [item for item in found if item.split == "train"]
    to_corners = are_xywh(found)
    reading.repairs["boxes-read-as-xywh" if to_corners else "boxes-read-as-xyxy"] += len(found)
    for item in found:
        x, y, wide, high = item.sides
        yield _place(item._replace(sides=(x, y, x + wide, y + high)) if to_corners else item, reading)


def _expression(raw: Mapping[str, Any], number: str, reading: Reading) -> Expression:
    """A row of either dialect: {img_id, sents, bbox, ...} or {img_path, expression, bbox, image_id, sent_id, ...}."""
    name = str(raw.get("img_path") or raw.get("img_id") or raw.get("image"))
    image = int(raw["image_id"]) if "image_id" in raw else int(name.split("_")[2].split(".")[0])
    texts = raw["expression"] if "expression" in raw else raw["sents"] if "sents" in raw else raw["sent"]
    text = reading.text(texts[0] if isinstance(texts, list) else texts)
    size = int(raw["width"]), int(raw["height"])
    return Expression((f"sentence/{number}",), image, text, _four(raw["bbox"]), *size, raw.get("split", "train"))


def are_xywh(found: Iterable[Expression]) -> bool:
    """Whether boxes are x, y, width, height: xywh leaves images less often than xyxy is inside out."""
    outside = inside_out = 0
    for item in found:
        x, y, third, fourth = item.sides
        outside += x + third > item.width + 1 or y + fourth > item.height + 1
        inside_out += third <= x or fourth <= y
    return outside <= inside_out


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
or flat rows per sentence, .json or .jsonl:
    {img_id: COCO_train2014_<id>_<n>, sents, bbox: xywh, height, width}
    {img_path, expression, bbox: xyxy, image_id, sent_id, split, height, width}""",
    rule="per image one dialogue over all expressions, cut evenly into segments of at most 9 questions, each question "
    "in a random one of two directions",
    read=read,
    expected={"refs": 126_908, "sentences": 321_327, "samples in mix665k": 48_447},
    images="coco/train2017",
    prompt=PROMPT,
    drops={
        **BOX_DROPS,
        NOT_TRAIN: "an expression of a validation or test split, in a file that has a train split",
        "no-annotation": "a ref whose box or image is not in the instances file",
    },
    repairs={
        **BOX_REPAIRS,
        "empty-sentence-left-out": "one of a ref's sentences is empty or its box is bad",
        "boxes-read-as-xywh": "flat rows whose boxes were judged to be x, y, width, height",
        "boxes-read-as-xyxy": "flat rows whose boxes were judged to be corners",
    },
)
