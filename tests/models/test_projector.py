"""A projector file says what it is; a model takes it whole or refuses it naming both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llavaflow.infra.errors import InputError
from llavaflow.models import llava, projector
from llavaflow.models.llava import Design, Llava
from llavaflow.models.projector import Projector, ProjectorFile

KINDS = {"identity": 0, "linear": 1, "mlp1x_gelu": 1, "mlp2x_gelu": 2, "mlp3x_gelu": 3}
PREFIXES = ("model.mm_projector.", "mm_projector.", "base_model.model.model.mm_projector.", "transformer.mm_projector.")


def layers(depth: int, vision: int = 32, language: int = 48) -> dict[str, torch.Tensor]:
    state = {}
    for place in range(depth):
        state[f"{2 * place}.weight"] = torch.randn(language, vision if place == 0 else language)
        state[f"{2 * place}.bias"] = torch.randn(language)
    return state


def file_of(kind: str, vision: int = 32, language: int = 48) -> ProjectorFile:
    made = Projector(kind=kind, vision_width=vision, language_width=language)
    return ProjectorFile(projector=made, state=layers(made.depth, vision, language))


def toy(foundation: Path, **design: Any) -> Llava:
    return llava.build(str(foundation / "clip"), str(foundation / "language"), Design(**design), seed=4)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_type_and_widths_are_read_from_any_spelling(tmp_path: Path, prefix: str, depth: int) -> None:
    state = layers(depth)
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "p.bin")
    file = projector.read(tmp_path / "p.bin")
    assert file.projector == Projector(kind=f"mlp{depth}x_gelu", vision_width=32, language_width=48)
    assert file.embeddings is None and all(torch.equal(file.state[key], value) for key, value in state.items())


def test_one_layer_without_a_number_is_linear(tmp_path: Path) -> None:
    projector.write(tmp_path / "p.bin", file_of("linear"))
    assert set(torch.load(tmp_path / "p.bin")) == {"model.mm_projector.weight", "model.mm_projector.bias"}
    assert str(projector.read(tmp_path / "p.bin").projector) == "linear 32 -> 48"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "identity"])
def test_into_transformers_names_and_back_is_exact(kind: str, tmp_path: Path) -> None:
    file = file_of(kind)
    named = {f"model.multi_modal_projector.{key}": value for key, value in projector.to_transformers(file).items()}
    assert len(named) == 2 * max(2, KINDS[kind])
    back = projector.from_transformers(named, file.projector)
    projector.write(tmp_path / "p.bin", back)
    again = projector.read(tmp_path / "p.bin")
    assert again.projector == file.projector
    assert set(again.state) == set(file.state)
    assert all(torch.equal(again.state[key], value) for key, value in file.state.items())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (file_of("mlp2x_gelu", vision=24), r"tower gives 32 values per token, the file takes 24"),
        (file_of("mlp2x_gelu", language=64), r"language model takes 48, the file gives 64"),
        (file_of("linear"), r"recipe asks for mlp2x_gelu, the file is linear"),
        (file_of("mlp3x_gelu"), r"recipe asks for mlp2x_gelu, the file is mlp3x_gelu"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(given: ProjectorFile, said: str) -> None:
    target = Projector(kind="mlp2x_gelu", vision_width=32, language_width=48)
    with pytest.raises(InputError, match=rf"\({given.projector}\) does not fit the model \({target}\).*{said}"):
        projector.check_fits(given.projector, target, "p.bin")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model.mm_projector.0.weight": torch.zeros(0), "model.mm_projector.0.bias": torch.zeros(0)}, "ZeRO-3"),
        ({"model.mm_projector.0.bias": torch.zeros(4)}, "partial"),
        ({"lm_head.weight": torch.zeros(2, 2)}, "holds no mm_projector weights; its keys: lm_head.weight"),
        ([torch.zeros(2, 2)], "a value of type list, and no weights by name"),
        ({"state_dict": {"model.mm_projector.0.weight": torch.zeros(2, 2)}}, "type dict under 'state_dict'"),
        ({1: torch.zeros(2, 2)}, "no weight by name"),
    ],
)
def test_a_file_without_a_whole_projector_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "p.bin")
    with pytest.raises(InputError, match=said):
        projector.read(tmp_path / "p.bin")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"2.bias": None}, "layer 2 has no bias"),
        ({"2.bias": torch.zeros(7)}, r"layer 2 has a bias of \(7,\)"),
        ({"2.weight": torch.zeros(48, 40)}, "layer 2 takes 40 values, the one before gives 48"),
        ({"5.weight": torch.zeros(48, 48), "5.bias": torch.zeros(48)}, "its layers are numbered 0, 2, 5"),
        ({"4.pre_norm.weight": torch.zeros(48)}, "it has model.mm_projector.4.pre_norm.weight"),
    ],
)
def test_layers_that_are_no_chain_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Among them the kinds that LLaVA-NeXT adds, whose first layers look like an mlp2x_gelu."""
    content = {**layers(2), **change}
    named = {f"model.mm_projector.{key}": value for key, value in content.items() if value is not None}
    torch.save(named, tmp_path / "p.bin")
    with pytest.raises(InputError, match=f"neither linear nor mlpNx_gelu: {said}"):
        projector.read(tmp_path / "p.bin")


@pytest.mark.parametrize("content", [b"", b"no weights", b"root:x:0:0:root:/root\n", b"version https://git-lfs\n"])
def test_bytes_that_are_no_weights_are_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.bin").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as weights") as told:
        projector.read(tmp_path / "p.bin")
    assert "weights_only" not in str(told.value)


def test_a_missing_or_broken_file_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no projector file at"):
        projector.read(tmp_path / "none.bin")
    (tmp_path / "p.bin").write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot be read as weights"):
        projector.read(tmp_path / "p.bin")


@pytest.mark.parametrize("rows", [2, 70])
def test_rows_of_the_marks_are_the_last_of_what_the_file_holds(toy_foundation: Path, tmp_path: Path, rows: int) -> None:
    """Upstream's stage 1 writes its whole input table; its loader takes two rows as well."""
    marked = toy(toy_foundation, projector="linear", im_start_end=True)
    table = torch.randn(rows, 48)
    weights = {f"model.mm_projector.{key.split('.')[1]}": value for key, value in layers(1).items()}
    torch.save({**weights, "model.embed_tokens.weight": table}, tmp_path / "p.bin")
    before = marked.model.get_input_embeddings().weight.detach().clone()
    llava.load_projector(marked, tmp_path / "p.bin")
    after = marked.model.get_input_embeddings().weight.detach()
    assert torch.equal(after[marked.mark_ids], table[-2:])
    others = [row for row in range(len(after)) if row not in marked.mark_ids]
    assert torch.equal(after[others], before[others])
    projector.write(
        tmp_path / "again.bin",
        projector.from_transformers(marked.model.state_dict(), marked.projector, marked.mark_ids),
    )
    assert torch.equal(torch.load(tmp_path / "again.bin")["model.embed_tokens.weight"], table[-2:])


def test_rows_on_one_side_only_are_refused(toy_foundation: Path, tmp_path: Path) -> None:
    bare = file_of("linear")
    marked = ProjectorFile(projector=bare.projector, state=bare.state, embeddings=torch.randn(2, 48))
    for file, wants, said in ((bare, True, "without.*set up with them.*=false"), (marked, False, "with .*=true")):
        projector.write(tmp_path / "p.bin", file)
        with pytest.raises(InputError, match=said):
            llava.load_projector(toy(toy_foundation, projector="linear", im_start_end=wants), tmp_path / "p.bin")
    narrow = ProjectorFile(projector=bare.projector, state=bare.state, embeddings=torch.randn(1, 48))
    with pytest.raises(InputError, match=r"embeddings of shape \(1, 48\)"):
        projector.mark_rows(narrow, True, "p.bin")


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(InputError, match="unknown projector type 'resampler'"):
        projector.depth("resampler")
