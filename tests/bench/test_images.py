"""How fast images become pixels: shards, decoded in parallel, against the loop that upstream's lazy dataset runs.

    pytest tests/bench/test_images.py -m slow -s

The plain loop opens a file, makes it RGB, pads it to a square and calls transformers' CLIP processor, in one process.
It is first shown to give the same pixels. Then both are timed twice: by the wall, which says little on a machine that
is busy otherwise; and by processor time, ours over all its processes, their start and the way of the pixels to the
training process included, which says what cores of one's own would give.
"""

from __future__ import annotations

import io
import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llavaflow.datasets._shards import ShardWriter
from llavaflow.models.images import ImageRule
from llavaflow.stages._batches import Order, Steps, loader
from llavaflow.stages._corpus import Corpus, Encoding, encode_corpus
from llavaflow.tests.conftest import toy_tokenizer

IMAGES, BATCH, CORES = 240, 8, 2
RULE = ImageRule(aspect="pad", size=336, patch=14)
BACKGROUND = (122, 116, 104)


def picture(rng: random.Random) -> bytes:
    """A photograph's worth of work: smooth areas, edges, the usual sizes."""
    size = rng.choice(((640, 480), (480, 640), (640, 427), (500, 375)))
    coarse = np.random.default_rng(rng.getrandbits(32)).integers(0, 255, (15, 20, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures twice: in shards with a record each, and as files in a folder."""
    folder: Path = tmp_path_factory.mktemp("images")
    rng = random.Random(0)
    (folder / "files").mkdir()
    with ShardWriter(folder) as shards, (folder / "data.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(IMAGES):
            body = picture(rng)
            width, height = Image.open(io.BytesIO(body)).size
            shards.add(f"{number}.jpg", body, {}, width=width, height=height)
            (folder / "files" / f"{number}.jpg").write_bytes(body)
            talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A scene."}]
            lines.write(json.dumps({"id": str(number), "image": f"{number}.jpg", "conversations": talk}) + "\n")
    return folder


@pytest.fixture(scope="module")
def steps(data: Path) -> Steps:
    tokenizer = toy_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    encoding = Encoding(template="v1", masking="answers", max_length=1024, image_rule=RULE)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    encode_corpus(data, data / "cache", encoding, tokenizer, image_id, 0, 1)
    order = Order(batching="packed", global_batch=BATCH, seed=0, epochs=1, workers=1, row_tokens=8192, per_device=1)
    return Steps(Corpus(data / "cache"), data, RULE, order, 0, tokenizer.pad_token_id)


def plain(path: Path, processor: Any) -> Any:
    """One image as upstream's dataset makes it with `image_aspect_ratio pad`."""
    image = Image.open(path).convert("RGB")
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), BACKGROUND)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return processor(canvas, return_tensors="pt")["pixel_values"][0]


def processor_s() -> float:
    """Processor time of this process and of all that it has started and seen end."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def best(work: Callable[[], object], clock: Callable[[], float]) -> float:
    times = []
    for _ in range(3):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


@pytest.mark.slow
def test_images_are_prepared_in_parallel_and_equal_to_the_plain_loop(data: Path, steps: Steps) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})

    def one_by_one() -> list[Any]:
        return [plain(data / "files" / f"{number}.jpg", processor) for number in range(IMAGES)]

    def ours(processes: int) -> list[Any]:
        return [batch.micros[0]["pixel_values"] for batch in loader(steps, 0, processes, pin_memory=False)]

    expected = one_by_one()
    for index, tiles in enumerate(ours(0)):
        rows = [row for micro in steps.plans[0].step(index).rows for row in micro[0].tolist()]
        for tile, row in zip(tiles, rows, strict=True):
            assert np.array_equal(tile.numpy(), expected[row].numpy())

    wall, fast = best(one_by_one, time.perf_counter), best(lambda: ours(CORES), time.perf_counter)
    gain = CORES * best(one_by_one, processor_s) / best(lambda: ours(CORES), processor_s)
    print(
        f"\nimages: {gain:.1f} x the plain loop on {CORES} cores of one's own; now, by the wall, "
        f"{IMAGES / fast:,.0f} per s with {CORES} processes against {IMAGES / wall:,.0f}"
    )
    assert gain >= 1.7
