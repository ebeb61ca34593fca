"""Published weights as a stage: projectors, whole models of both layouts, adapters, and a hub that is not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.models import checkpoint, llava, projector
from llavaflow.models.llava import Design
from llavaflow.models.zoo import ZOO
from llavaflow.stages import zoo_weights
from llavaflow.stages._against_zoo import against, row_for
from llavaflow.stages.publish import Publish
from llavaflow.stages.zoo_weights import ZooWeights
from llavaflow.tests.stages.conftest import Bench

PROJECTOR = "llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5"


@pytest.fixture
def released(toy_foundation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy checkpoint in the original layout, which names a tower that lies on disk; the zoo's row names it too."""
    model = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(), seed=4)
    llava.save(model, tmp_path / "hf")
    checkpoint.convert(tmp_path / "hf", tmp_path / "original", "original", None)
    row = replace(ZOO["llava-v1.5-7b"], tower=str(toy_foundation / "clip"))
    monkeypatch.setitem(ZOO, "llava-v1.5-7b", row)
    return tmp_path


def test_a_projector_is_read_before_it_is_taken(bench: Bench, released: Path) -> None:
    checkpoint.convert(released / "hf", released / "alone", "projector", None)
    made = bench.run(ZooWeights(name=PROJECTOR, folder=released / "alone"))
    assert str(projector.read(bench.path(made) / "mm_projector.bin").projector) == "mlp2x_gelu 32 -> 48"
    assert made.facts["zoo"] == PROJECTOR
    with pytest.raises(InputError, match=r"no mm_projector\.bin"):
        bench.run(ZooWeights(name=PROJECTOR, folder=released / "hf"))


@pytest.mark.parametrize("form", ["hf", "original"])
def test_a_whole_model_ends_in_our_form_whichever_layout_it_has(bench: Bench, released: Path, form: str) -> None:
    out = bench.path(bench.run(ZooWeights(name="llava-v1.5-7b", folder=released / form)))
    assert checkpoint.format_of(out / "model") == "hf"
    assert projector.read(out / "mm_projector.bin").projector == checkpoint.projector_of(released / "hf")


def test_without_a_hub_it_says_what_was_tried_and_what_to_do(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(StageFailed) as told:
        bench.run(ZooWeights(name="llava-v1.5-7b"))
    assert told.value.exit_code == 1
    for part in ("cannot get liuhaotian/llava-v1.5-7b from https://", "ConnectionError", "HF_ENDPOINT", ".folder="):
        assert part in str(told.value)


def test_a_file_inside_a_hub_repository_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names: asked.append(names) or "file.bin")
    assert zoo_weights.from_hub("liuhaotian/LLaVA-Pretrained-Projectors/p.bin", "pretrain.folder") == Path("file.bin")
    assert asked == [("liuhaotian/LLaVA-Pretrained-Projectors", "p.bin")]


def test_a_difference_to_llama_is_refused_with_the_way_to_add_it() -> None:
    with pytest.raises(InputError, match="apply-delta"):
        ZooWeights(name="LLaVA-13b-delta-v0").row()
    with pytest.raises(InputError, match=r"llava-v1\.5-7b"):
        ZooWeights(name="llava-v1.5-7c").row()


SCORES: dict[str, Any] = {"pope": {"score": 84.9, "n": 8910, "rule": "r"}, "chartqa": {"score": 10.0}}


def test_ours_stands_against_the_published_number_of_the_same_column() -> None:
    rows = list(against("llava-v1.5-7b", SCORES))
    assert [(row["benchmark"], row["published"], row["difference"]) for row in rows] == [("pope", 85.9, -1.0)]
    assert "mean F1" in rows[0]["published_rule"]


def test_the_row_is_that_of_the_recipe_or_of_the_weights_it_started_from(bench: Bench) -> None:
    given = bench.given("model", lambda root: None)
    assert row_for("llava15-13b-lora", given) == "llava-v1.5-13b-lora"
    assert row_for("projector-vicuna-7b-v1-5-336", given) is None and row_for("mine", given) is None
    assert row_for("mine", ZooWeights(name="llava-v1.6-34b")) == "llava-v1.6-34b"


def test_publish_tells_the_difference_in_its_card_and_its_facts(bench: Bench, released: Path) -> None:
    weights = ZooWeights(name="llava-v1.5-7b", folder=released / "hf")
    bench.run(weights)
    scores = bench.given("scores", lambda root: None)
    bench.built[scores] = replace(bench.built[scores], facts={"scores": SCORES})
    made = bench.run(Publish(model=weights, projector=weights, scores=scores))
    assert made.facts["published_row"] == "llava-v1.5-7b" and made.facts["against"][0]["difference"] == -1.0
    card = (bench.path(made) / "README.md").read_text()
    assert "## Against LLaVA-1.5 7B as published" in card and "| pope | 84.9 | 85.9 | -1.00 |" in card
