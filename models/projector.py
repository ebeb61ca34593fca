"""The projector between vision tower and language model: what it is, and `mm_projector.bin` in and out.

A projector file says everything about itself: the keys give its type, the shapes give the width of the tower and of
the language model. So a file is checked against its target before anything is loaded, and a mismatch names both.

    model.mm_projector.weight / .bias             one linear layer
    model.mm_projector.{0,2,...}.weight / .bias    mlpNx_gelu: N linear layers with GELU between
    model.embed_tokens.weight                      rows of <im_start> and <im_end>, when those are used

Keys also occur without `model.`, and with a longer prefix or another name of the table. Inside transformers' Llava
classes a projector is always linear, activation, linear. `linear` and `identity` fit in exactly: the activation is
`linear` and what is missing is a frozen identity matrix, so plain transformers loads them without code of ours. Deeper
ones are shipped with theirs (`deep_projector.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llavaflow.infra.errors import InputError
from llavaflow.models.weights import read_file

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

FILE = "mm_projector.bin"
PREFIX = "model.mm_projector."
EMBEDDINGS = "model.embed_tokens.weight"
# Llama's name of the input table, MPT's, and GPT-NeoX's
TABLES = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
MARK_ROWS = 2
# transformers has a class for this many layers
PLAIN_DEPTH = 2
_MLP = re.compile(r"mlp([1-9]\d*)x_gelu")
_KEY = re.compile(r"(?:^|\.)mm_projector\.(?:(\d+)\.)?(weight|bias)$")


@dataclass(frozen=True, kw_only=True)
class Projector:
    """Type and widths. `kind` is upstream's word: linear, mlpNx_gelu or identity."""

    kind: str
    vision_width: int
    language_width: int

    @property
    def depth(self) -> int:
        """How many linear layers it has."""
        return depth(self.kind)

    def __str__(self) -> str:
        return f"{self.kind} {self.vision_width} -> {self.language_width}"


@dataclass(frozen=True, kw_only=True)
class ProjectorFile:
    """The content of a projector file: layers under `0.weight`, `0.bias`, `2.weight`, ...; embedding rows if any.

    `embeddings` (rows, language width): the whole input table as upstream's stage 1 wrote it, or the two rows alone.
    """

    projector: Projector
    state: State
    embeddings: torch.Tensor | None = None


def depth(kind: str) -> int:
    """The number of linear layers of a projector type. Raises InputError for a type that does not exist."""
    match = _MLP.fullmatch(kind)
    if match:
        return int(match.group(1))
    if kind in ("linear", "identity"):
        return 1 if kind == "linear" else 0
    raise InputError(f"unknown projector type '{kind}'. Known: linear, identity, mlp2x_gelu and other mlpNx_gelu.")


def is_part(name: str) -> bool:
    """Whether a weight of this name is read by `parse`."""
    return bool(_KEY.search(name)) or name.endswith(TABLES)


def read(path: Path) -> ProjectorFile:
    """Read a projector file with weights_only loading and tell what it is."""
    if not path.is_file():
        raise InputError(f"no projector file at {path}. A pretrain stage writes {FILE}.")
    return parse(read_file(path), str(path))


def parse(state: Mapping[str, torch.Tensor], where: str, declared: str | None = None) -> ProjectorFile:
    """A state dict in upstream's naming as a ProjectorFile. `declared`: the type by a configuration, which alone tells
    of a projector without weights."""
    layers: State = {}
    for key, value in state.items():
        match = _KEY.search(key)
        if match:
            layers[f"{match.group(1) or 0}.{match.group(2)}"] = value
    rows = next((value for key, value in state.items() if key.endswith(TABLES)), None)
    if not layers and declared == "identity" and rows is not None:
        width = int(rows.shape[1])
        same = Projector(kind=declared, vision_width=width, language_width=width)
        return ProjectorFile(projector=same, state={}, embeddings=rows)
    if not layers:
        raise InputError(f"{where} holds no mm_projector weights; its keys: {', '.join(sorted(state)[:6])}")
    return ProjectorFile(projector=_infer(layers, state, where), state=layers, embeddings=rows)


def _infer(layers: State, state: Mapping[str, torch.Tensor], where: str) -> Projector:
    places = sorted({int(key.split(".")[0]) for key in layers})
    shapes = [tuple(layers[f"{place}.weight"].shape) for place in places if f"{place}.weight" in layers]
    if any(0 in shape or len(shape) != 2 for shape in shapes) or len(shapes) != len(places):
        raise InputError(
            f"{where} holds empty or partial projector weights {shapes}: it was saved from ZeRO-3 shards without "
            "gathering them. Export it again."
        )
    _check_layers(layers, places, state, where)
    numbered = any(re.search(r"mm_projector\.\d+\.weight$", key) for key in state)
    kind = f"mlp{len(places)}x_gelu" if numbered else "linear"
    return Projector(kind=kind, vision_width=shapes[0][1], language_width=shapes[-1][0])


def _check_layers(layers: State, places: Sequence[int], state: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse what is no chain of linear layers with GELU between: other kinds have layers of these names too."""
    other = sorted(key for key in state if "mm_projector." in key and not _KEY.search(key))
    width = int(layers[f"{places[0]}.weight"].shape[1])
    fault = f"it has {other[0]}" if other else ""
    for number, place in enumerate(places):
        weight, bias = layers[f"{place}.weight"], layers.get(f"{place}.bias")
        if place != 2 * number:
            fault = fault or f"its layers are numbered {', '.join(map(str, places))}"
        if bias is None or tuple(bias.shape) != weight.shape[:1]:
            fault = fault or f"layer {place} has {'no bias' if bias is None else f'a bias of {tuple(bias.shape)}'}"
        if weight.shape[1] != width:
            fault = fault or f"layer {place} takes {weight.shape[1]} values, the one before gives {width}"
        width = int(weight.shape[0])
    if fault:
        raise InputError(f"{where} holds a projector that is neither linear nor mlpNx_gelu: {fault}.")


def write(path: Path, file: ProjectorFile) -> None:
    """Write a projector file in upstream's spelling."""
    import torch

    prefix = {key: f"{PREFIX}{key}" for key in file.state}
    if file.projector.kind == "linear":
        prefix = {key: PREFIX + key.split(".")[1] for key in file.state}
    state = {prefix[key]: value.detach().cpu().contiguous().clone() for key, value in file.state.items()}
    if file.embeddings is not None:
        state[EMBEDDINGS] = file.embeddings.detach().cpu().clone()
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    scratch.replace(path)


def check_fits(file: Projector, target: Projector, where: str) -> None:
    """Refuse a projector made for another tower, language model or type, naming both sides."""
    if file == target:
        return
    reasons = []
    if file.vision_width != target.vision_width:
        reasons.append(
            f"the vision tower gives {target.vision_width} values per token, the file takes {file.vision_width}"
        )
    if file.language_width != target.language_width:
        reasons.append(f"the language model takes {target.language_width}, the file gives {file.language_width}")
    if file.kind != target.kind:
        reasons.append(f"the recipe asks for {target.kind}, the file is {file.kind}")
    raise InputError(
        f"projector {where} ({file}) does not fit the model ({target}): {'; '.join(reasons)}. "
        "Use the projector that was trained with this tower and this language model."
    )


def mark_rows(file: ProjectorFile, wanted: bool, where: str) -> torch.Tensor | None:
    """The rows (2, language width) of <im_start> and <im_end>, which are the last of the table in the file.

    Raises InputError when the file has them and the model does not want them, or the other way round.
    """
    rows = file.embeddings
    if (rows is not None) != wanted:
        has, wants = ("without", "with") if wanted else ("with", "without")
        raise InputError(
            f"projector {where} was trained {has} <im_start> and <im_end>, the model is set up {wants} them. "
            f"Set im_start_end={str(not wanted).lower()}, or take another projector."
        )
    if rows is None:
        return None
    if rows.ndim != 2 or rows.shape[0] < MARK_ROWS or rows.shape[1] != file.projector.language_width:
        raise InputError(
            f"projector {where} holds embeddings of shape {tuple(rows.shape)}: two rows or more of "
            f"{file.projector.language_width} values are needed, the last two for <im_start> and <im_end>."
        )
    return rows[-MARK_ROWS:]


def activation(kind: str) -> str:
    """The activation that transformers' projector must have to be this one."""
    return "gelu" if depth(kind) >= PLAIN_DEPTH else "linear"


def to_transformers(file: ProjectorFile) -> State:
    """The weights under transformers' names (`linear_1.weight`, ...), with an identity where a layer is missing."""
    import torch

    width = file.projector.language_width
    depth_ = file.projector.depth
    some = next(iter(file.state.values()), torch.empty(0))
    eye = {"weight": torch.eye(width, dtype=some.dtype), "bias": torch.zeros(width, dtype=some.dtype)}
    layers = [{part: file.state[f"{2 * place}.{part}"] for part in ("weight", "bias")} for place in range(depth_)]
    layers += [eye] * (PLAIN_DEPTH - depth_)
    return {f"linear_{number}.{part}": layer[part] for number, layer in enumerate(layers, 1) for part in layer}


def from_transformers(
    state: Mapping[str, torch.Tensor], projector: Projector, mark_ids: Sequence[int] = ()
) -> ProjectorFile:
    """The projector of a transformers model, its weights found by suffix (in memory and on disk prefixes differ).

    `mark_ids`: the rows of the input table that travel with it.
    """
    layers: State = {}
    for place in range(projector.depth):
        for part in ("weight", "bias"):
            suffix = f"multi_modal_projector.linear_{place + 1}.{part}"
            layers[f"{2 * place}.{part}"] = next(value for key, value in state.items() if key.endswith(suffix))
    rows = None
    if mark_ids:
        rows = next(value for key, value in state.items() if key.endswith(TABLES))[list(mark_ids)]
    return ProjectorFile(projector=projector, state=layers, embeddings=rows)
