"""The filters that judge one pair at a time, and the semantic rule, without a cluster."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llavaflow.datasets._shards import ImageTable, ShardWriter
from llavaflow.stages._pairs import Pair
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.filters import semantic_duplicates as semantic
from llavaflow.stages.filters._record_filter import Measured, Picture
from llavaflow.stages.filters.captions import Captions, is_english
from llavaflow.stages.filters.clip_score import ClipScore
from llavaflow.stages.filters.decode import Decode
from llavaflow.stages.filters.semantic_duplicates import semantic_duplicates
from llavaflow.stages.filters.size import Size


def pair(id: str, width: int = 64, height: int = 64, caption: str = "a red circle") -> Pair:
    return Pair(id=id, image=f"{id}.jpg", caption=caption, url=None, width=width, height=height, sha256=id)


def encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def test_decode_reads_every_byte(tmp_path: Path) -> None:
    good = encoded("JPEG")
    broken = bytearray(encoded("PNG"))
    broken[len(broken) // 2] ^= 0xFF
    files = {"good": good, "cut": good[: len(good) // 2], "page": b"<html>", "broken": bytes(broken)}
    with ShardWriter(tmp_path) as shards:
        for id, data in files.items():
            shards.add(f"{id}.jpg", data, {}, width=64, height=64)
    rule = Decode()
    pictures = [Picture(pair(id), ImageTable(tmp_path)) for id in files]
    verdicts = [rule.verdict(signal) for signal in rule.measurer()(pictures)]
    assert verdicts == [None, "truncated-image", "not-an-image", "corrupt-image"]
    assert rule.verdict(rule.measurer()([Picture(pair("good", 32), ImageTable(tmp_path))])[0]) == "size-differs"


def test_decode_sees_images_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (64, 40)).save(buffer, "JPEG", exif=turned)
    with ShardWriter(tmp_path) as shards:
        shards.add("a.jpg", buffer.getvalue(), {}, width=40, height=64)
    picture = Picture(replace(pair("a"), width=40, height=64), ImageTable(tmp_path))
    assert picture.pixels.size == (40, 64) and Decode().measurer()([picture]) == [{"fault": None}]


def test_size() -> None:
    records = [
        Measured(pair=pair(str(n), *size), signals={})
        for n, size in enumerate([(64, 64), (63, 900), (300, 64), (64, 300), (256, 64), (20_000, 10_000)])
    ]
    assert list(Size().choose(records)) == [
        ("1", "too-small"),
        ("2", "extreme-aspect"),
        ("3", "extreme-aspect"),
        ("5", "too-many-pixels"),
    ]


@pytest.mark.parametrize(
    "caption,reason",
    [
        ("a red circle on the grass", None),
        ("Photo of café tables by the naïve artist", None),
        ("Paris Eiffel Tower wallpaper 2021", None),
        ("circle", "short-caption"),
        ("12 34 56 78", "short-caption"),
        ("word " * 61, "long-caption"),
        ("x" * 200 + " y" + "z" * 300 + " w", "long-caption"),
        ("ein Mann mit einem Hund auf der Straße und das Haus", "other-language"),
        ("une femme avec le chien dans la rue", "other-language"),
        ("красный круг на траве", "other-language"),
        ("一只 可爱 的 猫", "other-language"),
    ],
)
def test_captions(caption: str, reason: str | None) -> None:
    assert Captions().fault(caption) == reason


def test_any_language_may_be_allowed() -> None:
    assert Captions(language=None).fault("красный круг на траве") is None and not is_english("красный круг")


def test_clip_score_by_threshold_and_by_fraction() -> None:
    clip = Pretrained(hub="openai/clip-vit-base-patch32")
    scores = {"a": 0.31, "b": 0.10, "c": 0.28, "d": 0.27}
    records = [Measured(pair=pair(id), signals={"clip_score": {"score": score}}) for id, score in scores.items()]
    by_threshold = ClipScore(clip=clip, threshold=0.28)
    verdicts = [by_threshold.verdict(record.signals["clip_score"]) is None for record in records]
    assert verdicts == [True, False, True, False]
    by_fraction = ClipScore(clip=clip, fraction=0.5)
    assert {id for id, _ in by_fraction.choose(records)} == {"b", "d"}
    assert list(by_threshold.choose(records)) == []


def slow(vectors: Any, epsilon: float) -> list[int]:
    """The rule on one cluster, pair by pair."""
    centre = vectors.mean(axis=0)
    ranked = sorted(range(len(vectors)), key=lambda place: float(vectors[place] @ centre))
    return sorted(
        later
        for rank, later in enumerate(ranked)
        if any(vectors[before] @ vectors[later] > 1 - epsilon for before in ranked[:rank])
    )


def test_semantic_duplicates_keep_one_view_of_each_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    things = rng.normal(size=(30, 32))
    views = np.concatenate([things, things[:10] + rng.normal(scale=0.01, size=(10, 32))]).astype(np.float32)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    dropped = semantic_duplicates(views, epsilon=0.03, cluster_size=1000, seed=0).tolist()
    assert len(dropped) == 10 and {place % 30 for place in dropped} == set(range(10))
    many = rng.normal(size=(120, 6)).astype(np.float32)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    for tile in (7, 50, 1000):
        monkeypatch.setattr(semantic, "TILE", tile)
        assert semantic_duplicates(many, 0.1, 1000, seed=0).tolist() == slow(many, 0.1)
    again = semantic_duplicates(views, epsilon=0.03, cluster_size=8, seed=0).tolist()
    assert again == semantic_duplicates(views, epsilon=0.03, cluster_size=8, seed=0).tolist() and again
