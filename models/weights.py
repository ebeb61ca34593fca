"""Weights and configuration of a folder, read without running code from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from llavaflow.infra.errors import InputError

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

ADAPTER = "adapter_model"


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, safetensors before pickled ones; adapters are none."""
    names = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return [path for path in names if path.stem != ADAPTER]


def read_state(folder: Path) -> State:
    """All weights of a folder. Raises InputError when there are none."""
    state: State = {}
    for path in weight_files(folder):
        state.update(read_file(path))
    if not state:
        raise InputError(f"no weights in {folder}: expected *.safetensors or pytorch_model*.bin.")
    return state


def read_file(path: Path) -> Mapping[str, torch.Tensor]:
    """One weight file. Raises InputError when it cannot be read as such."""
    import torch
    from safetensors.torch import load_file

    try:
        safe = path.suffix == ".safetensors"
        state: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    # a cut or foreign file fails in as many ways as pickle and zip know: any bytes may reach any of their steps
    except Exception as error:
        raise InputError(f"{path} cannot be read as weights: {_reason(error)}.") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{path} holds a value of type {type(state).__name__}, and no weights by name.")
    odd = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if odd:
        kind = type(state[odd[0]]).__name__
        raise InputError(f"{path} holds a value of type {kind} under {odd[0]!r}: that is no weight by name.")
    return state


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, UnpicklingError):
        # torch's own words advise to run the code in the file
        return "it is no pickle of tensors alone (a page, a git-lfs pointer and a pickle with code in it are none)"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def load_whole(model_class: Any, name: str, known: Sequence[str] = (), **settings: Any) -> Any:
    """`from_pretrained` of a folder or hub name. transformers draws what a checkpoint lacks at random, and leaves out
    what its class has no place for: here a lack is refused, and with `known` (parts of the names of weights that are
    used elsewhere) so is a surplus.

    Raises InputError for both, and for files that cannot be read.
    """
    from safetensors import SafetensorError

    try:
        # what has another shape is told here, in one line, and not in a report beside an error without names
        model, found = model_class.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **settings
        )
    except (SafetensorError, UnpicklingError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the weights of '{name}' cannot be read: {reason}. Fetch or write them again.") from error
    for key, held, wanted in sorted(found["mismatched_keys"]):
        raise InputError(
            f"'{name}' holds {key} of shape {tuple(held)} where its config.json says {tuple(wanted)}: "
            "configuration and weights are of two models."
        )
    lacks = sorted(found["missing_keys"])
    if lacks:
        raise InputError(f"'{name}' lacks {len(lacks)} weights of a {type(model).__name__}, such as {lacks[0]}.")
    foreign = [key for key in sorted(found["unexpected_keys"]) if known and not any(part in key for part in known)]
    if foreign:
        raise InputError(
            f"'{name}' holds {len(foreign)} weights that a {type(model).__name__} has no place for, such as "
            f"{foreign[0]}: its config.json names another architecture than it was written with."
        )
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder. Raises InputError when it is missing or no JSON."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} has no config.json.")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises InputError when it is none."""
    try:
        settings = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds no JSON object.")
    return settings
