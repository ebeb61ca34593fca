"""RefCOCO: give the box of the region that an expression describes (REC). RefCOCO+ and RefCOCOg are scored alike.

Source of the rule: lmms-eval `refcoco/utils_rec.py`. Not to be confused with lmms-eval's plain `refcoco` tasks, which
ask for a caption of a region.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import (
    Answer,
    Benchmark,
    Item,
    Judge,
    Mark,
    Options,
    Pair,
    Read,
    Scored,
    grouped,
    mean,
)
from llavaflow.datasets.benchmarks._boxes import Corners, are_corners, corners, overlap, read_box, unpad
from llavaflow.datasets.benchmarks._files import Row, find_all, rows
from llavaflow.datasets.benchmarks._join import asked
from llavaflow.infra.errors import InputError

TEXTS = ("expression", "sents", "sent", "sentence", "phrase", "answer", "text", "question")
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
CALLED = re.compile(r"refcoco(\+|_?plus|g|)")
NOTHING: Corners = (0.0, 0.0, 0.0, 0.0)
ASK = "Please provide the bounding box coordinate of the region this sentence describes:"


def reader(name: str) -> Read:
    """A reader of a file, or of those in a folder that are called by the benchmark; of all where none is."""

    def read(gold: Path, options: Options) -> list[Item]:
        paths = list(dict.fromkeys(find_all(gold, "*.jsonl", "*.json", "*.parquet"))) if gold.is_dir() else [gold]
        paths = [path for path in paths if _called(path) == name] or paths
        items = [item for path in paths for item in _one(path, len(paths) > 1)]
        if not items:
            raise InputError(f"no expressions of {name} in {gold}: expected records with an expression and a bbox.")
        return items

    return read


def _called(path: Path) -> str:
    """Which of the three benchmarks a file's name says, empty where it says none."""
    found = CALLED.search(path.name.lower())
    return {"": "refcoco", "g": "refcocog"}.get(found.group(1), "refcoco-plus") if found else ""


def _one(path: Path, several: bool) -> Iterator[Item]:
    records = [row for row in rows(path) if "bbox" in row]
    as_corners = are_corners(records)
    places: dict[str, int] = {}
    for number, row in enumerate(records):
        for text in _expressions(row):
            yield _item(row, number, text, as_corners, path.stem if several else str(row.get("split", "")), places)


def _expressions(row: Row) -> list[str]:
    """One item per expression: some dumps keep a list per box."""
    found = next((row[key] for key in TEXTS if row.get(key)), "")
    return [str(text) for text in found] if isinstance(found, list) else [str(found)]


def _item(row: Row, number: int, text: str, as_corners: bool, group: str, places: dict[str, int]) -> Item:
    try:
        width = float(row.get("width") or row["image_width"])
        height = float(row.get("height") or row["image_height"])
    except KeyError as error:
        raise InputError(f"refcoco: gold record {number + 1} has no {error}: the image's sides are needed.") from error
    image = str(row.get("img_path") or row.get("image") or row.get("img_id") or row.get("image_id") or "")
    reference = str(row.get("img_id") or row.get("question_id") or "")
    place = places.get(reference, 0)
    places[reference] = place + 1
    own = next((str(row[key]) for key in ("sent_id", "question_id", "id") if row.get(key) is not None), "")
    # MiniGPT-4's answers are lists per reference, in the order of its expressions
    said = text.strip().lower()
    pictured = asked(image, text)
    names = [f"{own}|{pictured}", pictured, f"{own}|{said}", own, f"{reference}#{place}", reference, f"?{said}"]
    return Item(
        id=own or str(number),
        gold=corners(row["bbox"], as_corners),
        names=tuple(name for name in (*names, "" if own else str(number)) if name),
        text=text,
        image=image,
        group=group,
        meta={"width": width, "height": height},
    )


def _names(answer: Answer) -> Iterator[str]:
    row: Mapping[str, object] = answer.row
    # in lmms-eval's samples the expression is the `answer` of the document; elsewhere that may be the reply
    keys = TEXTS[:6] if "doc_id" in row else TEXTS[:5]
    text = next((str(row[key]) for key in keys if row.get(key)), answer.prompt).replace("<image>", "")
    text = text.strip().split(ASK)[-1].strip()
    # an id counts first only together with image and expression: it may be a place in the file of another tool
    spoken = list(dict.fromkeys((text.rstrip("."), text))) if text else []
    if answer.image:
        yield from (f"{answer.id}|{asked(answer.image, said)}" for said in spoken)
        yield from (asked(answer.image, said) for said in spoken)
    yield from (f"{answer.id}|{said.lower()}" for said in spoken)
    yield from (name for name in (str(row.get("sent_id") or ""), answer.id) if name)
    if text:
        yield f"?{text.rstrip('.').strip().lower()}"


def _box(pair: Pair, options: Options) -> Corners | None:
    box = read_box(pair.text)
    if box is None or options.box_frame == "image":
        return box
    return unpad(box, pair.item.meta["width"], pair.item.meta["height"])


def _gold(item: Item) -> Corners:
    width, height = item.meta["width"], item.meta["height"]
    x1, y1, x2, y2 = item.gold
    return x1 / width, y1 / height, x2 / width, y2 / height


def _mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
    boxes = [_box(pair, options) for pair in pairs]
    golds = [_gold(pair.item) for pair in pairs]
    overlaps = [overlap(gold, box or NOTHING) for gold, box in zip(golds, boxes, strict=True)]
    marks = [
        Mark(value=float(value >= 0.5), read=str(list(box)) if box else None)
        for value, box in zip(overlaps, boxes, strict=True)
    ]
    inside = (_centre_in(gold, box or NOTHING) for gold, box in zip(golds, boxes, strict=True))
    metrics = {
        **{f"acc@{edge}": mean(value >= edge for value in overlaps) for edge in THRESHOLDS},
        "mean_iou": mean(overlaps),
        "center_acc": mean(inside),
        "box_frame": options.box_frame,
        "by_split": grouped(pairs, marks, lambda item: item.group),
    }
    large = sum(max(read_box(pair.text) or NOTHING) > 1 for pair in pairs)
    notes = (f"{large} boxes have a coordinate above 1; the rule takes coordinates as 0 to 1",) if large else ()
    return Scored(score=mean(mark.value for mark in marks), marks=marks, metrics=metrics, notes=notes)


def _centre_in(gold: Corners, box: Corners) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return gold[0] <= x <= gold[2] and gold[1] <= y <= gold[3]


BENCHMARK = Benchmark(
    name="refcoco",
    title="RefCOCO referring expression comprehension",
    layout=(
        "JSON lines or list, one record per expression: {image, expression or sents, bbox, width, height}; boxes as "
        "xywh or corners (told apart over the whole file)"
    ),
    prompt=f"{ASK} {{expression}}",
    rule=(
        "Precision at IoU >= 0.5, one item per expression; the first [x1, y1, x2, y2] of the reply, 0 to 1; a reply "
        "without exactly four numbers in brackets is the empty box. --box-frame image: of the image's own sides; "
        "padded: of LLaVA's square, moved back to the image."
    ),
    source="lmms-eval refcoco/utils_rec.py; padded frame: ConvLLaVA's grounding evaluation",
    read=reader("refcoco"),
    mark=_mark,
    names=_names,
)
