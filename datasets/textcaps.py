"""TextCaps train: captions that read the text in the image; one caption per image, with its OCR tokens.

The tokens are not in TextCaps itself: they come from the Rosetta OCR file of TextVQA, joined on the image id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llavaflow.datasets._raw import find, rows, search
from llavaflow.datasets._sample import IMAGE_TOKEN, Sample, Turn
from llavaflow.datasets._source import ONE_CAPTION, Reading, Source, question, rejected

CAPTIONS = ("TextCaps_0.1_train.json", "*TextCaps*train*.json", "*[Tt]ext[Cc]aps*.json")
OCR = ("TextVQA_Rosetta_OCR_v0.2_train.json", "*OCR*train*.json", "*OCR*.json")


class Caption(NamedTuple):
    """One caption of one image."""

    id: str
    image: str
    text: str


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per image, in the order of the caption file."""
    file = find(path, *CAPTIONS, source="textcaps")
    tokens = _tokens(search(path, *OCR, source="textcaps"), file, reading)
    groups: dict[str, list[Caption]] = {}
    seen: set[str] = set()

    def build(raw: dict[str, Any]) -> Caption | Sample:
        caption = Caption(str(raw["caption_id"]), str(raw["image_id"]), reading.text(raw["caption_str"]))
        if caption.id in seen:
            return rejected("textcaps", f"caption/{caption.id}", "repeated-id")
        seen.add(caption.id)
        return caption if caption.text else rejected("textcaps", f"caption/{caption.id}", "empty-answer")

    for item in reading.each("textcaps", file, rows(file, "data"), build):
        if isinstance(item, Sample):
            yield item
        else:
            groups.setdefault(item.image, []).append(item)
    for image, captions in groups.items():
        chosen = reading.random("textcaps", image).randrange(len(captions))
        for number, caption in enumerate(captions):
            if number != chosen:
                yield rejected("textcaps", f"caption/{caption.id}", "another-caption-chosen")
        yield _sample(captions[chosen], tokens.get(image, []))


def _sample(caption: Caption, tokens: list[str]) -> Sample:
    line = f"Reference OCR token: {', '.join(tokens)}" if tokens else ""
    return Sample(
        id=caption.image,
        source="textcaps",
        images=(f"textvqa/train_images/{caption.image}.jpg",),
        turns=(question(ONE_CAPTION, line), Turn(role="gpt", text=caption.text)),
        parents=(f"textcaps:caption/{caption.id}", *((f"textcaps:ocr/{caption.image}",) if tokens else ())),
    )


def _tokens(ocr: Path | None, captions: Path, reading: Reading) -> dict[str, list[str]]:
    """The OCR tokens of every image; empty where the OCR file is absent."""
    if ocr is None or ocr == captions:
        reading.repairs["no-ocr-file"] += 1
        return {}
    return dict(reading.join(ocr, rows(ocr, "data"), lambda raw: _read_tokens(raw, reading)))


def _read_tokens(raw: dict[str, Any], reading: Reading) -> tuple[str, list[str]]:
    if not all([isinstance(token, str) for token in raw["ocr_tokens"]]):
        raise TypeError("ocr_tokens must be texts")
    tokens = [token for token in raw["ocr_tokens"] if IMAGE_TOKEN not in token]
    reading.repairs["image-token-in-text"] += len(raw["ocr_tokens"]) - len(tokens)
    return str(raw["image_id"]), tokens


SOURCE = Source(
    name="textcaps",
    title="TextCaps 0.1, train",
    origin=(
        "https://textvqa.org/textcaps/dataset/",
        "OCR tokens: https://textvqa.org/dataset/ (Rosetta OCR 0.2)",
        "images: https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
    ),
    licence="annotations CC BY 4.0; images: Open Images, CC BY 2.0",
    layout="""TextCaps_0.1_train.json               {"data": [{image_id, caption_id, caption_str, ...}]}
TextVQA_Rosetta_OCR_v0.2_train.json   {"data": [{image_id, ocr_tokens: [..]}]}   (optional)
train_images/<image_id>.jpg""",
    rule="one caption per image, drawn by seed; the question carries the image's OCR tokens",
    read=read,
    expected={"captions": 109_765, "images": 21_953, "samples": 21_953},
    images="textvqa/train_images",
    prompt=ONE_CAPTION,
    drops={"empty-answer": "no caption text", "another-caption-chosen": "one caption per image is used"},
    repairs={"no-ocr-file": "no OCR file beside the captions: questions carry no token line"},
)
