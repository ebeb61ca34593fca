"""A picture of what a stage made, for people who look at its run: some of its images with their words, or its loss.

    shards, mixture    twelve images with their captions or their conversation's first turns
    the world          twelve of its photographs
    training           loss and learning rate by step
    scores             the plots of its report

Drawn from the artifact when somebody looks; no part of it, and so no part of any fingerprint.
"""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

SHOWN, COLUMNS = 12, 4
# the images shown are spread over this many records, so that a set of millions is not read through
RECORDS = 600
WORDS = 90
Shown = tuple[bytes, str]


def draw(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, PNG bytes) of the pictures of an artifact's folder; none where there is nothing to show."""
    for plot in ("bars", "radar"):
        if (path := folder / "pictures" / f"{plot}.png").is_file():
            yield plot, path.read_bytes()
    if samples := _samples(folder):
        yield "samples", _sheet(samples)
    if (log := folder / "log.jsonl").is_file():
        yield "loss", _curve(log)


def _samples(folder: Path) -> list[Shown]:
    if (folder / "data.jsonl").is_file():
        return _of_records(folder)
    if (folder / "shards").is_dir():
        return _of_shards(folder)
    return [(path.read_bytes(), path.name) for path in _spread(sorted((folder / "raw").rglob("*.jpg")))]


def _of_records(folder: Path) -> list[Shown]:
    from llavaflow.datasets._shards import ImageTable

    with (folder / "data.jsonl").open() as lines:
        records = [record for line in islice(lines, RECORDS) if (record := json.loads(line)).get("image")]
    images = ImageTable(folder)
    names = [(_first_image(record), record) for record in _spread(records)]
    shown = [(images.open(name), _turns(record)) for name, record in names if name in images]
    images.close()
    return shown


def _of_shards(folder: Path) -> list[Shown]:
    from llavaflow.datasets._shards import read_shards

    samples = _spread(list(islice(read_shards(folder), RECORDS)))
    return [(sample.image, str(sample.meta.get("caption", sample.key))) for sample in samples]


def _first_image(record: dict[str, Any]) -> str:
    image = record["image"]
    return str(image if isinstance(image, str) else image[0])


def _turns(record: dict[str, Any]) -> str:
    return "\n".join(str(turn["value"]).replace("<image>", "").strip() for turn in record["conversations"][:2])


def _spread(items: Sequence[Any]) -> list[Any]:
    return list(items[:: max(1, len(items) // SHOWN)])[:SHOWN]


def _sheet(samples: Sequence[Shown]) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    rows = -(-len(samples) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 3.1 * rows))
    for number, (data, words) in enumerate(samples):
        axes = figure.add_subplot(rows, COLUMNS, number + 1)
        axes.imshow(imread(io.BytesIO(data), format="jpg"))
        axes.set_axis_off()
        text = "\n".join(textwrap.fill(textwrap.shorten(line, WORDS), 34) for line in words.splitlines())
        # a caption's dollar signs are no formulas
        axes.set_title(text, fontsize=7, loc="left", parse_math=False)
    figure.subplots_adjust(hspace=0.6)
    return _png(figure)


def _curve(log: Path) -> bytes:
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.open()]
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(7, 3))
    axes = figure.add_subplot()
    axes.plot(steps, [row["loss"] for row in rows], color="#2a6f97", linewidth=1)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss", color="#2a6f97")
    rate = axes.twinx()
    rate.plot(steps, [row["lr"] for row in rows], color="#e0a458", linewidth=1)
    rate.set_ylabel("learning rate", color="#b07a2e")
    return _png(figure)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=80, bbox_inches="tight")
    return out.getvalue()
