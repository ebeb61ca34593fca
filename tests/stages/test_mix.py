"""The mixture over a small generated world: counts, rules, lineage, bytes."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llavaflow.datasets._index import read_index, read_row, sha256_bytes
from llavaflow.datasets._mixture import MIX665K
from llavaflow.datasets._shards import ImageTable
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.infra.store import open_store
from llavaflow.stages.mix import Component, Mix, published_components
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.world import World

WORLD = World(
    coco_images=12, gqa_images=6, vg_images=6, ocrvqa_books=70, textcaps_images=4, sharegpt_chats=16, urls=40,
    exam_questions=4,
)  # fmt: skip


_WITH_WORLD: list[Any] = []


@pytest.fixture
def built(bench: Any) -> Any:
    """A bench with the world in its store: one for all tests here, because drawing it takes longest."""
    if not _WITH_WORLD:
        bench.run(WORLD)
        _WITH_WORLD.append(bench)
    return _WITH_WORLD[0]


def instruct(root: Path) -> None:
    """A LLaVA JSON file of a user: one record with an image of the world, one with a missing one, one without."""
    talk = _talk("<image>\nWhat is it?", "A scene.")
    rows = [
        {"id": 7, "image": "000000000007.jpg", "conversations": talk},
        {"id": 8, "image": "coco/train2017/nowhere.jpg", "conversations": talk},
        {"id": "7", "conversations": _talk("Hello?", " Hello. ")},
    ]
    (root / "instruct.json").write_text(json.dumps(rows))


def _talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def mix(bench: Any, tmp_path: Path, **settings: Any) -> Mix:
    own = tmp_path / "own"
    own.mkdir(exist_ok=True)
    instruct(own)
    parts = published_components(MIX665K, raw=WORLD, instruct=own / "instruct.json")
    coco = bench.path(WORLD) / "raw/coco"
    parts = tuple(replace(part, images=coco) if part.name == "llava-instruct" else part for part in parts)
    return Mix(components=parts, **settings)


def records(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "data.jsonl").read_text().splitlines()]


def test_ten_components_become_one_shuffled_set(built: Any, tmp_path: Path) -> None:
    artifact = built.run(mix(built, tmp_path))
    root = built.path(artifact)
    rows = records(root)
    counts = Counter(row["id"].partition("/")[0] for row in rows)
    facts = {part["name"]: part["samples"] for part in artifact.facts["components"]}
    assert counts == Counter(facts)
    assert set(facts) == {part.name for part in MIX665K.parts}
    assert json.loads((root / "llava_mix.json").read_text()) == rows
    assert [row["id"] for row in rows] != sorted(row["id"] for row in rows)
    assert facts["aokvqa"] == 4 * facts["vqav2"]
    assert artifact.facts["samples"] == len(rows)
    assert artifact.facts["components"][0]["dropped"] == {"missing-image": 1}


def test_the_card_names_what_of_the_published_mixture_is_missing(built: Any, tmp_path: Path) -> None:
    stage = mix(built, tmp_path)
    assert "that are not here" not in (built.path(built.run(stage)) / "README.md").read_text()
    parts = tuple(part for part in stage.components if part.name not in ("textcaps", "vg"))
    newer = built.run(replace(stage, mixture="llava16-mix", components=parts))
    card = (built.path(newer) / "README.md").read_text()
    absent = card.partition("Parts of the published mixture that are not here:")[2]
    assert "- vg (86,417 records)" in absent and "- textcaps" not in absent
    assert "- mathv360k-tqa (10,181 records): never published" in absent and "MathV360K, its TQA part" in absent


def test_pictures_inside_a_raw_table_come_along(bench: Any, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, "JPEG")
    truth = json.dumps({"gt_parse": {"text_sequence": "some words"}})
    row = {"image": {"bytes": buffer.getvalue(), "path": None}, "ground_truth": truth}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist([row] * 3), tmp_path / "data/train-00000-of-00001.parquet")
    part = Component(name="synthdog", source="synthdog", data=tmp_path)
    built = bench.run(Mix(components=(part,), mixture="llava16-mix"))
    assert (built.facts["samples"], built.facts["with_image"], built.facts["images"]) == (3, 3, 3)
    table = ImageTable(bench.path(built))
    assert all(table.open(row["image"]) == buffer.getvalue() for row in records(bench.path(built)))


def test_every_image_is_stored_once_and_every_record_finds_its_own(built: Any, tmp_path: Path) -> None:
    root = built.path(built.run(mix(built, tmp_path)))
    table = ImageTable(root)
    shown = {row["image"] for row in records(root) if "image" in row}
    assert shown == set(table)
    assert all(sha256_bytes(table.open(name)) == table.sha256(name) for name in shown)


def test_parents_are_rows_of_the_world_and_bytes_are_as_indexed(built: Any, tmp_path: Path) -> None:
    artifact = built.run(mix(built, tmp_path))
    root, world = built.path(artifact), built.built[WORLD]
    known = set(read_index(built.path(world), ["id"]).column("id").to_pylist())
    index = read_index(root).to_pylist()
    assert len({row["id"] for row in index}) == len(index)
    for row in index:
        if row["dropped"] is None:
            assert sha256_bytes(read_row(root, row["file"], row["row"])) == row["sha256"]
        for parent in row["parents"]:
            fingerprint, _, name = parent.partition(":")
            assert fingerprint != world.fingerprint or name in known
    first = next(row for row in index if row["id"].startswith("vqav2/"))
    kinds = {parent.partition(":")[2].partition("/")[0] for parent in first["parents"]}
    assert kinds == {"vqav2:question", "vqav2:annotation", "coco:image"}


def test_records_of_an_artifact_are_parents_under_their_index_ids(built: Any, tmp_path: Path) -> None:
    images = built.path(WORLD) / "raw/coco/train2017"
    (tmp_path / "own").mkdir()
    instruct(tmp_path / "own")
    own = OwnData(file=tmp_path / "own/instruct.json", images=images, tolerate=0.5)
    given = built.run(own)
    known = {row["id"]: row for row in read_index(built.path(given)).to_pylist()}
    for folder in ("", "data.jsonl"):
        artifact = built.run(Mix(components=(Component(name="mine", source="llava-json", data=own, folder=folder),)))
        rows = [row for row in read_index(built.path(artifact)).to_pylist() if row["file"] == "data.jsonl"]
        assert len(rows) == 2
        for row in rows:
            names = [parent.partition(":")[2] for parent in row["parents"]]
            assert set(names) <= set(known) and known[names[0]]["file"] == "data.jsonl"


def test_nothing_is_lost_between_reading_and_writing(built: Any, tmp_path: Path) -> None:
    artifact = built.run(mix(built, tmp_path))
    index = read_index(built.path(artifact)).to_pylist()
    for part in artifact.facts["components"]:
        if part["name"] in ("sharegpt", "ocrvqa", "vg", "llava-instruct"):
            assert part["samples"] + sum(part["dropped"].values()) == part["read"], part["name"]
        listed = sum(row["dropped"] is not None and row["source"] == part["name"] for row in index)
        assert listed == sum(part["dropped"].values())


def test_same_seed_same_bytes_other_seed_other_order(built: Any, tmp_path: Path) -> None:
    stage = mix(built, tmp_path)
    names = ("data.jsonl", "llava_mix.json", "images.parquet", "index.parquet", "shards/00000.tar", "README.md")

    def content(bench: Any, mixture: Mix) -> list[bytes]:
        root = bench.path(bench.run(mixture))
        return [(root / name).read_bytes() for name in names]

    first = content(built, stage)
    assert content(built, replace(stage, seed=1))[0] != first[0]
    elsewhere = replace(built, store=open_store(str(tmp_path / "second")), built={})
    elsewhere.run(WORLD)
    assert content(elsewhere, stage) == first


def test_a_sampled_component_indexes_what_it_left_out(built: Any, tmp_path: Path) -> None:
    stage = mix(built, tmp_path)
    parts = tuple(replace(part, sampling="first:2") for part in stage.components if part.name == "gqa")
    artifact = built.run(Mix(components=parts))
    assert artifact.facts["samples"] == 2
    assert artifact.facts["dropped"] == {"not-sampled": 4}
    assert len(ImageTable(built.path(artifact))) == 2


def test_strict_holds_against_the_published_counts(built: Any, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="vqav2 has 12 instead of 82,783|vqav2 has 11 instead of 82,783"):
        built.run(mix(built, tmp_path, strict=True))


def test_wrong_components_are_refused_before_reading(bench: Any, tmp_path: Path) -> None:
    part = Component(name="a", source="gqa", data=tmp_path)
    with pytest.raises(InputError, match="names of their own"):
        bench.run(Mix(components=(part, part)))
    with pytest.raises(InputError, match="unknown source 'gqqa'.*Did you mean gqa"):
        bench.run(Mix(components=(replace(part, source="gqqa"),)))
    with pytest.raises(InputError, match="a: no option 'x=1'; gqa has none"):
        bench.run(Mix(components=(replace(part, options=("x=1",)),)))


def test_malformed_records_are_set_aside_and_listed(bench: Any, tmp_path: Path) -> None:
    rows = [{"id": str(number), "conversations": _talk(f"Question {number}?", "Yes.")} for number in range(4)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"id": "4", \n')
    part = Component(name="own", source="llava-json", data=tmp_path / "x.jsonl")
    with pytest.raises(InputError, match=r"x\.jsonl, line 5: not JSON"):
        bench.run(Mix(components=(part,)))
    artifact = bench.run(Mix(components=(part,), tolerate=0.2))
    assert artifact.facts["samples"] == 4 and artifact.facts["dropped"] == {"malformed-record": 1}
    (bad,) = [json.loads(line) for line in (bench.path(artifact) / "malformed.jsonl").read_text().splitlines()]
    assert (bad["component"], bad["file"], bad["where"]) == ("own", "x.jsonl", "line 5") and "not JSON" in bad["reason"]


def test_two_different_images_under_one_name_are_refused(bench: Any, tmp_path: Path) -> None:
    from PIL import Image

    parts = []
    for name, colour in (("one", "red"), ("two", "blue")):
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", (8, 8), colour).save(folder / "x.png")
        row = {"id": "1", "image": "x.png", "conversations": _talk("<image>\nWhich colour?", colour)}
        (folder / "data.json").write_text(json.dumps([row]))
        parts.append(Component(name=name, source="llava-json", data=folder / "data.json", images=folder))
    with pytest.raises(StageFailed, match="different images under the name x.png"):
        bench.run(Mix(components=tuple(parts)))


def test_names_that_are_stored_as_one_never_change_a_picture(bench: Any, tmp_path: Path) -> None:
    from PIL import Image

    for name, colour in (("a.b.png", "red"), ("a_b.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    talk = _talk("<image> and <image>\nTwice the same?", "Yes.")
    rows = [{"id": "1", "image": ["a.b.png", "a.b.png"], "conversations": talk}]
    rows += [{"id": "2", "image": "a_b.png", "conversations": _talk("<image>\nWhich colour?", "Blue.")}]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    part = Component(name="own", source="llava-json", data=tmp_path / "data.json", images=tmp_path)
    with pytest.raises(StageFailed, match=r"a\.b\.png and a_b\.png are different images.*rename one"):
        bench.run(Mix(components=(part,)))
    (tmp_path / "a_b.png").write_bytes((tmp_path / "a.b.png").read_bytes())
    found = {row["id"]: row["image"] for row in records(bench.path(bench.run(Mix(components=(part,)))))}
    assert found == {"own/1": ["a_b.png", "a_b.png"], "own/2": "a_b.png"}


def test_croissant_metadata_is_valid(built: Any, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    root = built.path(built.run(mix(built, tmp_path)))
    issues = mlcroissant.Dataset(jsonld=root / "croissant.json").metadata.issues
    assert not issues.errors
