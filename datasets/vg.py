"""Visual Genome: regions, at most 10 per image, as a dialogue about boxes; or its questions and answers.

The mixture uses 86,417 of the 108,077 images; how they were chosen was never published. Images that must not be used
(test images of a benchmark, say) are named in `held_out.json`, a list of image ids beside the regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llavaflow.datasets._grounding import BOX_DROPS, BOX_REPAIRS, PROMPT, Region, ask, box_text, clipped
from llavaflow.datasets._raw import elements, find, search
from llavaflow.datasets._sample import Sample
from llavaflow.datasets._source import SHORT_ANSWER, Reading, Source, capitalise, dialogue, rejected
from llavaflow.infra.errors import InputError

MOST_ANNOTATIONS = 10
FOLDERS = ("VG_100K", "VG_100K_2")
TABLES = {"regions": "region_descriptions", "qas": "question_answers"}


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per image with a usable region (or question), in file order."""
    table = reading.options.get("records", "qas" if path.name.startswith("question_answers") else "regions")
    if table not in TABLES:
        raise InputError(f"records '{table}' of vg is neither of {', '.join(TABLES)}.")
    file = find(path, f"{TABLES[table]}*.json", source="vg")
    folder = path if path.is_dir() else path.parent
    sizes = find(folder, "image_data*.json", source="vg")
    pictures = dict(reading.join(sizes, elements(sizes), _picture))
    listed = search(path, "held_out.json", source="vg")
    held_out = set(reading.join(listed, elements(listed), int)) if listed else set()
    make = _sample if table == "regions" else _questions
    seen: set[int] = set()

    def build(raw: Mapping[str, Any]) -> Sample:
        image = int(raw["id"] if "id" in raw else raw["image_id"])
        fault = "held-out-image" if image in held_out else "repeated-id" if image in seen else None
        fault = fault or (None if image in pictures else "no-image-size")
        seen.add(image)
        return rejected("vg", f"{table}/{image}", fault) if fault else make(image, raw, pictures[image], reading)

    yield from reading.each("vg", file, elements(file), build)


def _questions(image: int, raw: Mapping[str, Any], picture: tuple[str, int, int], reading: Reading) -> Sample:
    """All questions on an image as one conversation."""
    pairs = [(reading.text(qa["question"]), reading.text(qa["answer"]).removesuffix(".")) for qa in raw["qas"]]
    usable = [(asked, capitalise(answer)) for asked, answer in pairs if asked and answer]
    reading.repairs["bad-region-passed-over"] += len(pairs) - len(usable)
    if not usable:
        return rejected("vg", f"qas/{image}", "no-usable-region")
    return Sample(
        id=f"{picture[0]}/{image}",
        source="vg",
        images=(f"vg/{picture[0]}/{image}.jpg",),
        turns=dialogue(usable, SHORT_ANSWER),
        parents=(f"vg:qas/{image}", f"vg:image_data/{image}"),
    )


def _sample(image: int, raw: Mapping[str, Any], picture: tuple[str, int, int], reading: Reading) -> Sample:
    """A dialogue about regions drawn at random; regions that cannot be used are passed over and replaced."""
    folder, width, height = picture
    dice = reading.random("vg", image)
    regions = raw["regions"]
    asked: list[tuple[str, str]] = []
    for place in dice.sample(range(len(regions)), len(regions)):
        region = _region(regions[place], width, height, reading)
        if region is None:
            reading.repairs["bad-region-passed-over"] += 1
            continue
        asked.append(ask(region, dice))
        if len(asked) == MOST_ANNOTATIONS:
            break
    if not asked:
        return rejected("vg", f"regions/{image}", "no-usable-region")
    return Sample(
        id=f"{folder}/{image}",
        source="vg",
        images=(f"vg/{folder}/{image}.jpg",),
        turns=dialogue(asked),
        parents=(f"vg:regions/{image}", f"vg:image_data/{image}"),
    )


def _region(raw: Mapping[str, Any], width: int, height: int, reading: Reading) -> Region | None:
    phrase = reading.text(raw["phrase"])
    x, y = raw["x"], raw["y"]
    box = clipped(x, y, x + raw["width"], y + raw["height"], width, height, reading)
    return Region(phrase, box_text(box, width, height)) if phrase and box else None


def _picture(raw: Mapping[str, Any]) -> tuple[int, tuple[str, int, int]]:
    """Id, folder, width and height of an image; the folder is in its address."""
    number = int(raw["image_id"] if "image_id" in raw else raw["id"])
    folder = FOLDERS[1] if f"/{FOLDERS[1]}/" in raw.get("url", "") else FOLDERS[0]
    return number, (folder, int(raw["width"]), int(raw["height"]))


SOURCE = Source(
    name="vg",
    title="Visual Genome 1.4 regions and questions",
    origin=("https://homes.cs.washington.edu/~ranjay/visualgenome/api.html", "images: images.zip, images2.zip there"),
    licence="annotations and images CC BY 4.0",
    layout="""region_descriptions.json   [{id, regions: [{region_id, phrase, x, y, width, height}]}]
question_answers.json      [{id, qas: [{qa_id, question, answer}]}]   (for records=qas)
image_data.json            [{image_id, width, height, url, coco_id}]
held_out.json              [image id, ..]   (optional: images not to be used)
VG_100K/<id>.jpg, VG_100K_2/<id>.jpg""",
    rule="at most 10 regions per image, drawn by seed, each asked for in a random one of two directions; with "
    "records=qas all questions on an image become one conversation",
    read=read,
    expected={"images": 108_077, "regions": 5_408_689, "samples in mix665k": 86_417},
    images="vg",
    prompt=PROMPT,
    options={"records": "regions, or qas for the questions and answers (regions)"},
    drops={
        **BOX_DROPS,
        "held-out-image": "the image is listed in held_out.json",
        "no-usable-region": "no region with a phrase and a box, or no question with an answer, is left",
    },
    repairs={**BOX_REPAIRS, "bad-region-passed-over": "a region without phrase or area, or a question without answer"},
)
