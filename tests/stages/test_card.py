"""Cards: both are valid, and what they say of the files can be read through them."""

from __future__ import annotations

import io
import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llavaflow.datasets._index import IndexWriter
from llavaflow.datasets._shards import ShardWriter
from llavaflow.stages._card import Card, write_card
from llavaflow.stages._fetch import Fetched
from llavaflow.stages._fetch_ledger import ledger_row, ledger_writer

TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """One picture with a record and a pair of its own, and a text-only record."""
    data = io.BytesIO()
    Image.new("RGB", (4, 3)).save(data, "PNG")
    with ShardWriter(tmp_path) as shards, ledger_writer(tmp_path) as ledger, IndexWriter(tmp_path) as index:
        placed = shards.add("a.png", data.getvalue(), {}, width=4, height=3)
        good = Fetched(id="a", reason=None, width=4, height=3)
        ledger.add(ledger_row("http://x/1", "a cup", good, placed.image, placed.sha256))
        index.add("a", source="x", sha256=placed.sha256, file=placed.file, row=0)
        index.add("b", source="x", dropped="too-small")
    records = [{"id": "1", "image": "a.png", "conversations": TALK}, {"id": "2", "conversations": TALK}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def card(form: Any) -> Card:
    return Card(
        title="Two of a kind", form=form, fingerprint="abc123", samples=2, about=["Made by hand."],
        licences=["x: CC0"], dropped={"too-small": 1, "never": 0},
    )  # fmt: skip


@pytest.mark.parametrize("form", ["conversations", "pairs"])
def test_croissant_is_valid_and_its_record_sets_can_be_read(form: str, artifact: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    write_card(artifact, card(form))
    dataset = mlcroissant.Dataset(jsonld=artifact / "croissant.json")
    assert not dataset.metadata.issues.errors
    read = {sets.uuid: list(islice(dataset.records(sets.uuid), 9)) for sets in dataset.metadata.record_sets}
    assert set(read) == {form, "images", "lineage"}
    if form == "conversations":
        assert [row["conversations/id"] for row in read[form]] == [b"1", b"2"]
        turns = [list(turn.values()) for turn in read[form][1]["conversations/conversations"]]
        assert turns == [[b"human", b"<image>\nWhat?"], [b"gpt", b"A cup."]]
    else:
        assert (read[form][0]["pairs/caption"], read[form][0]["pairs/width"]) == (b"a cup", 4)
    assert read["images"][0]["images/image"] == b"a.png" and read["images"][0]["images/height"] == 3
    assert read["lineage"][1]["lineage/dropped"] == b"too-small"


@pytest.mark.parametrize(("form", "data"), [("conversations", "data.jsonl"), ("pairs", "shards/*.tar")])
def test_the_readme_is_a_dataset_card_of_the_hub(form: str, data: str, artifact: Path) -> None:
    write_card(artifact, card(form))
    text = (artifact / "README.md").read_text()
    front = re.fullmatch(r"---\n(.*)\n---\n(.*)", text, re.DOTALL)
    assert front and f"data_files: {data}" in front.group(1) and "size_categories: [n<1K]" in front.group(1)
    assert "# Two of a kind" in front.group(2) and "- x: CC0" in text
    assert "- too-small: 1" in text and "never" not in text
    for name in re.findall(r"^- `(\S+)`", text, re.MULTILINE):
        assert list(artifact.glob(name)), f"{name} is there"


def test_equal_data_has_equal_cards(artifact: Path) -> None:
    write_card(artifact, card("pairs"))
    before = [(artifact / name).read_bytes() for name in ("README.md", "croissant.json")]
    write_card(artifact, card("pairs"))
    assert before == [(artifact / name).read_bytes() for name in ("README.md", "croissant.json")]
