"""Toy training data: coloured rectangles with a question each, every fifth sample text only."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

from llavaflow.datasets._shards import ShardWriter

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220)}


def write(folder: Path, samples: int = 48, broken: str = "") -> None:
    """data.jsonl, shards and image table; the image of the sample named `broken` is no image."""
    rng = random.Random(0)
    records = []
    with ShardWriter(folder) as shards:
        for number in range(samples):
            colour = rng.choice(sorted(COLOURS))
            question = f"{'Please tell me. ' * rng.randint(0, 3)}What colour is it?"
            record: dict[str, Any] = {"id": f"s{number}"}
            if number % 5:
                size = (rng.randint(20, 60), rng.randint(20, 60))
                data = b"no picture" if record["id"] == broken else _png(size, COLOURS[colour])
                shards.add(f"{number}.png", data, {}, width=size[0], height=size[1])
                record["image"] = f"{number}.png"
                question = f"<image>\n{question}"
            # of unequal lengths, so that a mean over tokens is not the mean over samples
            answer = f"{'It is plainly ' * rng.randint(0, 2)}{colour}."
            record["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            records.append(record)
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def _png(size: tuple[int, int], colour: tuple[int, int, int]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()
