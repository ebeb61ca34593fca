"""What people see of an artifact: its images with their words, its loss, its plots; nothing where there is nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from llavaflow.datasets._shards import ShardWriter
from llavaflow.stages._pictures import draw


def _shards(folder: Path, count: int) -> None:
    with ShardWriter(folder) as writer:
        for number in range(count):
            data = io.BytesIO()
            Image.new("RGB", (40, 30), (200, 40 * number, 0)).save(data, format="JPEG")
            writer.add(f"{number}.jpg", data.getvalue(), {"caption": f"costs $5 and $6, {number}"}, width=40, height=30)


def _colours(png: bytes) -> set[tuple[int, int, int]]:
    """The reds of the sheet, rounded: one for each image that it shows."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    colours = image.getcolors(image.width * image.height) or []
    return {(r, g, b) for n, (r, g, b) in colours if n > 300 and r > 180 and b < 30}  # type: ignore[misc]


def test_shards_show_their_images(tmp_path: Path) -> None:
    _shards(tmp_path, 5)
    [(name, png)] = draw(tmp_path)
    assert name == "samples"
    assert len(_colours(png)) == 5


def test_a_mixture_shows_the_images_of_its_records_only(tmp_path: Path) -> None:
    _shards(tmp_path, 5)
    turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "Red."}]
    records = [{"id": "a", "image": "3.jpg", "conversations": turns}, {"id": "b", "conversations": turns}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    [(name, png)] = draw(tmp_path)
    assert name == "samples"
    assert len(_colours(png)) == 1


def test_training_shows_its_loss(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 1 / step, "lr": 0.1} for step in (1, 2)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [(name, png)] = draw(tmp_path)
    assert name == "loss"
    assert Image.open(io.BytesIO(png)).width > 300


def test_an_artifact_without_pictures_shows_none(tmp_path: Path) -> None:
    assert list(draw(tmp_path)) == []
