"""The tokenised training set: encoded once by all workers together, then memory-mapped by every one of them.

`data.jsonl` is cut into chunks of lines. Worker r tokenises every r-th chunk and leaves three arrays and a list per
chunk in a cache folder; a chunk appears under its name only when it is whole, so a killed run goes on where it was.
Chunks do not depend on the number of workers. After that every length is known, image tokens included, and no image
has been opened: sizes come from `images.parquet`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llavaflow.datasets._shards import TABLE, ImageTable
from llavaflow.models.images import ImageRule, count_tokens
from llavaflow.models.labels import Encoded, Item, encode_many
from llavaflow.models.samplers import modality_length
from llavaflow.models.templates import Rule, template

DATA = "data.jsonl"
CHUNK_LINES = 2048

Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Everything that decides the tokens of a sample."""

    template: str
    masking: Rule
    max_length: int
    image_rule: ImageRule
    im_start_end: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One sample as it enters a batch."""

    encoded: Encoded
    images: tuple[str, ...]


def encode_corpus(
    data: Path, cache: Path, encoding: Encoding, tokenizer: Any, image_token_id: int, rank: int, workers: int
) -> None:
    """Write this worker's share of the chunks that the cache still lacks."""
    cache.mkdir(parents=True, exist_ok=True)
    table = ImageTable(data) if (data / TABLE).exists() else None
    for number, records in enumerate(_chunks(data / DATA)):
        if number % workers != rank or (cache / f"{number:06d}.json").exists():
            continue
        items = [_item(record, table, encoding.image_rule) for record in records]
        encoded = encode_many(
            items,
            template=template(encoding.template, encoding.im_start_end),
            tokenizer=tokenizer,
            image_token_id=image_token_id,
            max_length=encoding.max_length,
            rule=encoding.masking,
        )
        _write_chunk(cache / f"{number:06d}", records, encoded)


class Corpus:
    """Random access to the encoded samples of a complete cache; rejected ones are left out."""

    def __init__(self, cache: Path) -> None:
        self._ids: list[Longs] = []
        self._labels: list[Longs] = []
        self._images: list[list[str]] = []
        self._names: list[str] = []
        self._words: list[int] = []
        starts: list[Longs] = []
        places: list[Longs] = []
        for number, path in enumerate(sorted(cache.glob("*.json"))):
            notes = json.loads(path.read_text("utf-8"))
            offsets = np.load(path.with_suffix(".offsets.npy"))
            self._ids.append(np.load(path.with_suffix(".ids.npy"), mmap_mode="r"))
            self._labels.append(np.load(path.with_suffix(".labels.npy"), mmap_mode="r"))
            self._images += notes["images"]
            self._names += notes["ids"]
            self._words += notes["words"]
            starts.append(np.stack([offsets[:-1], offsets[1:]], axis=1))
            places.append(np.full(len(offsets) - 1, number, np.int64))
        self._spans = np.concatenate(starts) if starts else np.zeros((0, 2), np.int64)
        self._places = np.concatenate(places) if places else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Row:
        start, stop = self._spans[index]
        chunk = self._places[index]
        encoded = Encoded(
            input_ids=np.array(self._ids[chunk][start:stop]), labels=np.array(self._labels[chunk][start:stop])
        )
        return Row(encoded=encoded, images=tuple(self._images[index]))

    def name(self, index: int) -> str:
        """The id of a sample in its record."""
        return self._names[index]

    @property
    def lengths(self) -> Longs:
        """Tokens per sample, image tokens included."""
        spans: Longs = self._spans[:, 1] - self._spans[:, 0]
        return spans

    @property
    def modality_lengths(self) -> list[int]:
        """What upstream groups samples by: words, negative where no image is shown."""
        return self._words


def rejected(cache: Path) -> list[dict[str, str]]:
    """The samples that a complete cache leaves out, with their reasons."""
    return [row for path in sorted(cache.glob("*.json")) for row in json.loads(path.read_text("utf-8"))["rejected"]]


def broken(path: Path) -> list[dict[str, str]]:
    """The samples whose image was skipped, from the lines "id: reason" of a run; one line each, however many epochs and
    restarts met them."""
    lines = dict.fromkeys(path.read_text("utf-8").splitlines()) if path.exists() else {}
    rows = (line.partition(": ") for line in lines)
    return [{"id": name, "reason": "broken-image", "detail": detail} for name, _, detail in rows]


def _chunks(path: Path) -> Iterator[list[dict[str, Any]]]:
    with path.open("rb") as lines:
        while block := list(islice(lines, CHUNK_LINES)):
            yield [json.loads(line) for line in block]


def _item(record: dict[str, Any], table: ImageTable | None, rule: ImageRule) -> Item:
    turns = [(turn["from"], turn["value"]) for turn in record["conversations"]]
    sizes = [table.size(image) for image in _images(record)] if table is not None else []
    return Item(turns, [count_tokens(rule, width, height) for width, height in sizes])


def _images(record: dict[str, Any]) -> list[str]:
    image = record.get("image", [])
    return [image] if isinstance(image, str) else list(image)


def _words(record: dict[str, Any]) -> int:
    return modality_length([turn["value"] for turn in record["conversations"]], bool(_images(record)))


def _write_chunk(stem: Path, records: Sequence[dict[str, Any]], encoded: Sequence[Any]) -> None:
    """The arrays first, the list last: its presence says that the chunk is whole."""
    pairs = list(zip(records, encoded, strict=True))
    kept = [(record, sample) for record, sample in pairs if isinstance(sample, Encoded)]
    lost = [(record, sample) for record, sample in pairs if not isinstance(sample, Encoded)]
    nothing = np.zeros(0, np.int32)
    np.save(stem.with_suffix(".ids.npy"), np.concatenate([nothing, *(sample.input_ids for _, sample in kept)]))
    np.save(stem.with_suffix(".labels.npy"), np.concatenate([nothing, *(sample.labels for _, sample in kept)]))
    np.save(stem.with_suffix(".offsets.npy"), np.cumsum([0, *(len(sample) for _, sample in kept)], dtype=np.int64))
    notes = {
        "ids": [str(record["id"]) for record, _ in kept],
        "images": [_images(record)[: sample.images] for record, sample in kept],
        "words": [_words(record) for record, _ in kept],
        "rejected": [
            {"id": str(record["id"]), "reason": sample.reason, "detail": sample.detail} for record, sample in lost
        ],
    }
    scratch = stem.with_suffix(".tmp")
    scratch.write_text(json.dumps(notes), "utf-8")
    os.replace(scratch, stem.with_suffix(".json"))
