"""LoRA on the language model: adapters put in by peft, taken out in upstream's files, merged by arithmetic.

Upstream adapts every linear layer of the language model but the head, and never the vision tower. (peft finds targets
by the end of their names, so adapting a whole LLaVA model would catch the tower's attention too: adapters go into the
language model alone.) What trains beside the adapters, the projector, travels as `non_lora_trainables.bin`; both files
are written together, because one without the other is of no use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llavaflow.infra.errors import InputError
from llavaflow.models import projector as projectors
from llavaflow.models.llava import Llava

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

ADAPTER = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
OTHERS = "non_lora_trainables.bin"
UPSTREAM_PREFIX = "base_model.model."
_PAIR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight$")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Rank, scale (alpha / r), dropout, and which biases train: none is what every published recipe uses."""

    r: int = 128
    alpha: int = 256
    dropout: float = 0.05
    bias: Literal["none"] = "none"

    @property
    def scale(self) -> float:
        return self.alpha / self.r


def inject(llava: Llava, lora: Lora, seed: int) -> None:
    """Put fresh adapters into the language model; they depend on the seed alone, and add nothing until trained."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    language = llava.model.model.language_model
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, bias=lora.bias, target_modules=_targets(language)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, language)


def _targets(language: torch.nn.Module) -> list[str]:
    import torch

    names = {
        name.rsplit(".", 1)[-1] for name, module in language.named_modules() if isinstance(module, torch.nn.Linear)
    }
    return sorted(names - {"lm_head"})


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return ".lora_" in name


def merged(state: Mapping[str, torch.Tensor], scale: float) -> State:
    """The weights with adapters added in (in float32) and the names of a model without them."""
    pairs: dict[str, dict[str, Any]] = {}
    plain: State = {}
    for name, value in state.items():
        match = _PAIR.match(name)
        if match:
            pairs.setdefault(match.group(1), {})[match.group(2)] = value
        else:
            plain[name.replace(".base_layer.", ".")] = value
    for module, pair in pairs.items():
        weight = plain[f"{module}.weight"]
        plain[f"{module}.weight"] = (weight.float() + scale * (pair["B"].float() @ pair["A"].float())).to(weight.dtype)
    return plain


def write(folder: Path, state: Mapping[str, torch.Tensor], lora: Lora, llava: Llava) -> None:
    """Write adapter, its configuration and the other trained weights in upstream's naming."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(name, _PAIR.match(name)) for name in state]
    adapter = {_upstream(match): state[name].contiguous() for name, match in pairs if match}
    save_file(adapter, folder / ADAPTER, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "bias": lora.bias,
        "target_modules": sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in adapter}),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2), "utf-8")
    file = projectors.from_transformers(state, llava.projector)
    others = {f"{UPSTREAM_PREFIX}{projectors.PREFIX}{key}": value for key, value in file.state.items()}
    torch.save(others, folder / OTHERS)


def _upstream(match: re.Match[str]) -> str:
    module = match.group(1).replace("model.language_model.", "model.", 1)
    return f"{UPSTREAM_PREFIX}{module}.lora_{match.group(2)}.weight"


def merge_folder(llava: Llava, folder: Path) -> None:
    """Merge an adapter folder (ours or upstream's) into a model that was built for it."""
    import torch

    missing = [name for name in (CONFIG, OTHERS) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} lacks {' and '.join(missing)}: an adapter without the projector trained beside it gives "
            "gibberish. Take the folder that holds both files."
        )
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    others = torch.load(folder / OTHERS, map_location="cpu", weights_only=True)
    file = projectors.parse(others, str(folder / OTHERS))
    projectors.check_fits(file.projector, llava.projector, str(folder / OTHERS))
    state = dict(llava.model.state_dict())
    for name, value in projectors.to_transformers(file).items():
        key = f"model.multi_modal_projector.{name}"
        state[key] = value.to(state[key].dtype)
    for name, value in _read_adapter(folder).items():
        key = name.removeprefix(UPSTREAM_PREFIX).replace("model.layers.", "model.language_model.layers.", 1)
        state[key] = value
    llava.model.load_state_dict(merged(state, config["lora_alpha"] / config["r"]))


def _read_adapter(folder: Path) -> State:
    import torch
    from safetensors.torch import load_file

    if (folder / ADAPTER).is_file():
        weights: State = load_file(folder / ADAPTER)
    elif (folder / "adapter_model.bin").is_file():
        weights = torch.load(folder / "adapter_model.bin", map_location="cpu", weights_only=True)
    else:
        raise InputError(f"{folder} holds neither {ADAPTER} nor adapter_model.bin.")
    return weights
