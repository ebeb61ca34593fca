"""Caption: what BLIP says becomes LCS-558K records; the same twice, after a kill, and only new images on a refresh."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavaflow.datasets._index import read_index, read_row, sha256_bytes
from llavaflow.datasets._shards import ImageTable
from llavaflow.infra import ray
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.caption import Caption, brief_instructions

DARK, LIGHT = "a red circle", "the blue star"
WORDS = "a the red blue circle star".split()


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP that has learned one thing: dark pictures are a red circle, light ones a blue star."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), bos_token="[DEC]")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3}
    text = {**sizes, **tokens, "vocab_size": len(tokenizer), "encoder_hidden_size": 32, "max_position_embeddings": 32}
    torch.manual_seed(0)
    config = BlipConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16})
    model = BlipForConditionalGeneration(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    light = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 3, 32, 32)
    ids = tokenizer([DARK, LIGHT], return_tensors="pt").input_ids
    ids[:, 0] = 5
    for _ in range(80):
        loss = model(pixel_values=light, input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def pairs(count: int) -> list[tuple[str, str, bytes, int, int]]:
    """Pictures that are light where the number is a multiple of three."""
    made = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), (250,) * 3 if number % 3 == 0 else (5,) * 3).save(buffer, "JPEG")
        made.append((f"id{number:02d}", "noise", buffer.getvalue(), 40, 40))
    return made


def records(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "data.jsonl").read_text().splitlines()]


def test_records_resume_and_refresh(bench: Any, blip: Path) -> None:
    data = bench.pairs("filter", pairs(10))
    stage = Caption(data=data, model=Pretrained(path=blip), max_new_tokens=6, batch_size=4)
    first = bench.run(stage)
    root = bench.path(first)
    check(root, bench.built[data].fingerprint)

    half = bench.context(stage, generation=1)
    lines = [
        {
            "chunk": chunk,
            "rows": [{"id": row["id"], "caption": row["conversations"][1]["value"], "fault": ""} for row in rows],
        }
        for chunk, rows in [(digest_of(records(root)[:4]), records(root)[:4])]
    ]
    (half.work / "caption.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"chunk": "torn')
    resumed = bench.path(stage.run(half))
    for name in ("data.jsonl", "meta.jsonl", "shards/00000.tar", "index.parquet"):
        assert (resumed / name).read_bytes() == (root / name).read_bytes()

    more = bench.pairs("filter-2", [*pairs(12), ("id99", "cut", pairs(1)[0][2][:200], 40, 40)])
    newer = bench.run(Caption(data=more, model=Pretrained(path=blip), max_new_tokens=6, batch_size=4), previous=first)
    assert newer.facts["reused"] == first.facts["samples"] and newer.facts["samples"] == 12
    assert newer.facts["dropped"] == {"corrupt-image": 1}
    assert "12 images, each with a brief instruction" in bench.card(newer)
    assert [row for row in records(bench.path(newer)) if row["id"] < "id10"] == records(root)


def test_without_a_model_each_image_keeps_its_text(bench: Any) -> None:
    data = bench.pairs("filter", pairs(10))
    built = bench.run(Caption(data=data, model=None))
    root = bench.path(built)
    assert {row["conversations"][1]["value"] for row in records(root)} == {"noise"} and built.facts["reused"] == 0
    asked = {row["conversations"][0]["value"].replace("<image>", "").strip() for row in records(root)}
    assert asked <= set(brief_instructions())
    assert json.loads((root / "meta.jsonl").read_text().splitlines()[0])["caption"] == "noise"
    assert "in the form of CC3M-595K" in bench.card(built)


def digest_of(rows: list[dict[str, Any]]) -> str:
    from llavaflow.infra.fingerprint import digest

    return digest([row["id"] for row in rows])


def check(root: Path, up: str) -> None:
    rows, images = records(root), ImageTable(root)
    assert len(rows) == 10 == len(images)
    for row in rows:
        assert set(row) == {"id", "image", "conversations"} and row["image"] in images
        human, gpt = row["conversations"]
        assert sorted(human["value"].split("\n"))[0] == "<image>" and human["from"] == "human"
        assert human["value"].replace("<image>", "").strip() in brief_instructions()
        assert gpt == {"from": "gpt", "value": LIGHT if int(row["id"][2:]) % 3 == 0 else DARK}
    assert len(Counter(row["conversations"][0]["value"] for row in rows)) > 3
    index = read_index(root).to_pylist()
    assert len(index) == 20
    for line in index:
        assert line["parents"][0].startswith(f"{up}:id") and line["url"]
        assert sha256_bytes(read_row(root, line["file"], line["row"])) == line["sha256"]
    meta = [json.loads(line) for line in (root / "meta.jsonl").read_text().splitlines()]
    assert [row["blip_caption"] for row in meta] == [row["conversations"][1]["value"] for row in rows]


def test_the_published_phrasings_are_there() -> None:
    assert len(brief_instructions()) == 11 and "Describe the image concisely." in brief_instructions()
