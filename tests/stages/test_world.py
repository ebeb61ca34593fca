"""World: official layouts that agree with each other, a web with the dirt it says, exams apart, an index that holds."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from llavaflow.datasets._index import read_index, read_row, sha256_bytes
from llavaflow.datasets._scenes_web import DIRT
from llavaflow.datasets.benchmarks._benchmark import Options, load_benchmark
from llavaflow.datasets.scenes import COLOURS, SHAPES
from llavaflow.infra.store import open_store
from llavaflow.stages.world import World
from llavaflow.tests.stages.conftest import Bench

SMALL = World(
    coco_images=60, gqa_images=20, vg_images=20, ocrvqa_books=40, textcaps_images=10, sharegpt_chats=40, urls=300,
    exam_questions=24,
)  # fmt: skip


def build(folder: Path, stage: World = SMALL) -> Path:
    bench = Bench(store=open_store(folder))
    return bench.path(bench.run(stage))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("world"))


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def files(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name != "index.parquet" and not path.name.startswith("record"):
            yield str(path.relative_to(root)), sha256_bytes(path.read_bytes())


def test_the_same_seed_gives_the_same_files(world: Path, tmp_path: Path) -> None:
    assert list(files(build(tmp_path))) == list(files(world))


def test_every_index_row_leads_to_the_bytes_that_it_names(world: Path) -> None:
    rows = read_index(world).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows[::7]:
        assert sha256_bytes(read_row(world, row["file"], row["row"])) == row["sha256"]


def test_coco_captions_and_instances_are_about_the_same_images(world: Path) -> None:
    captions = load(world / "raw/coco/annotations/captions_train2017.json")
    instances = load(world / "raw/coco/annotations/instances_train2017.json")
    known = {image["id"]: image for image in captions["images"]}
    per_image = Counter(record["image_id"] for record in captions["annotations"])
    assert set(per_image) == set(known) and set(per_image.values()) <= {5, 6}
    names = {category["id"]: category["name"] for category in instances["categories"]}
    assert max(names) > len(names), "ids have gaps"
    for record in instances["annotations"]:
        x, y, wide, high = record["bbox"]
        image = known[record["image_id"]]
        assert x + wide <= image["width"] + 0.5 and y + high <= image["height"] + 0.5
        assert any(names[record["category_id"]] in text["caption"] for text in captions["annotations"])


def test_boxes_lie_on_what_they_name(world: Path) -> None:
    """The middle of a box is not background, in the picture file itself."""
    document = load(world / "raw/coco/annotations/instances_train2017.json")
    names = {image["id"]: image["file_name"] for image in document["images"]}
    checked = 0
    for record in document["annotations"]:
        path = world / "raw/coco/train2017" / names[record["image_id"]]
        if not path.exists():
            continue
        image = Image.open(path).convert("RGB")
        x, y, wide, high = record["bbox"]
        red, green, blue = image.getpixel((int(x + wide / 2), int(y + high / 2)))  # type: ignore[misc]
        checked += max(red, green, blue) - min(red, green, blue) > 40 or max(red, green, blue) < 90
    assert checked > 0.9 * len(document["annotations"])


def test_vqa_files_join_and_have_ten_answers(world: Path) -> None:
    questions = load(world / "raw/vqav2/v2_OpenEnded_mscoco_train2014_questions.json")["questions"]
    annotations = load(world / "raw/vqav2/v2_mscoco_train2014_annotations.json")["annotations"]
    assert [item["question_id"] for item in questions] == [item["question_id"] for item in annotations]
    assert len({item["question_id"] for item in questions}) == len(questions)
    assert {len(item["answers"]) for item in annotations} == {10}


def test_every_planted_kind_is_in_the_truth_and_the_web_answers_so(world: Path) -> None:
    truth = pq.read_table(world / "raw/urls/truth.parquet").to_pylist()
    urls = pq.read_table(world / "raw/urls/urls.parquet").to_pylist()
    assert {row["kind"] for row in truth} == {*DIRT, "good"}
    assert [row["URL"] for row in sorted(truth, key=lambda row: row["row"])] == [row["URL"] for row in urls]
    routes = load(world / "web/routes.json")
    for row in truth:
        host, _, path = row["URL"].partition("://")[2].partition("/")
        route = routes.get(host, {}).get(f"/{path}")
        if row["kind"] in ("refused", "bad-url", "private-address"):
            assert route is None
        elif row["kind"] == "not-found":
            assert route["status"] == 404
        elif row["kind"] == "opted-out":
            assert "noai" in route["headers"]["X-Robots-Tag"]
        elif row["kind"] == "good":
            image = Image.open(io.BytesIO((world / "web" / route["file"]).read_bytes()))
            image.load()
            assert image.format is not None and Image.MIME[image.format] == route["content_type"]


def test_a_mismatched_text_names_nothing_of_its_picture(world: Path) -> None:
    from llavaflow.datasets.scenes import scene

    texts = pq.read_table(world / "raw/urls/urls.parquet").column("TEXT").to_pylist()
    truth = pq.read_table(world / "raw/urls/truth.parquet").to_pylist()
    wrong = [row for row in truth if row["kind"] == "mismatched"]
    assert wrong
    for row in wrong:
        names = {thing.word or thing.name for thing in scene("train", row["seed"]).things}
        assert not any(name in texts[row["row"]] for name in names)


def test_the_exam_has_its_mix_and_balance(world: Path) -> None:
    counts = {path.parent.name: len(path.read_text().splitlines()) for path in world.glob("eval/*/questions.jsonl")}
    assert counts == dict.fromkeys(("pope", "gqa", "vqav2", "textvqa", "refcoco"), 24) | {"llava-bench-coco": 30}
    labels: Counter[str] = Counter()
    for path in world.glob("eval/pope/coco_pope_*.json"):
        labels.update(json.loads(line)["label"] for line in path.read_text().splitlines())
    assert labels["yes"] == labels["no"] == 12
    gold = load(world / "eval/vqav2/v2_mscoco_val2014_annotations.json")["annotations"]
    answers = Counter(item["multiple_choice_answer"] for item in gold)
    assert set(answers.values()) == {6}
    for path in world.glob("eval/*/questions.jsonl"):
        for line in path.read_text().splitlines():
            assert (world / "eval/images" / json.loads(line)["image"]).is_file()


def test_open_questions_have_references_that_their_context_supports(world: Path) -> None:
    items = load_benchmark("llava-bench-coco").items(world / "eval/llava-bench-coco", Options())
    assert Counter(item.group for item in items) == {"conv": 10, "detail": 10, "complex": 10}
    for item in items:
        known = set(re.findall(r"\w+", item.meta["context"].lower()))
        named = {word for word in re.findall(r"\w+", item.meta["reference"].lower()) if word in (*SHAPES, *COLOURS)}
        assert named <= known


def test_training_and_exam_pictures_are_apart(world: Path) -> None:
    rows = read_index(world, ["id", "source", "sha256"]).to_pylist()
    images = [row for row in rows if ":image/" in row["id"]]
    exam = {row["sha256"] for row in images if row["source"] == "eval"}
    assert exam and not exam & {row["sha256"] for row in images if row["source"] != "eval"}
