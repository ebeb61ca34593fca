"""LoRA on the language model: adapters put in by peft, taken out in upstream's files, merged by arithmetic.

Upstream adapts every linear layer of the language model but the head, and never the vision tower. (peft finds targets
by the end of their names, so adapting a whole LLaVA model would catch the tower's attention too: adapters go into the
language model alone.) What trains beside the adapters, the projector, travels as `non_lora_trainables.bin`; both files
are written together, because one without the other is of no use.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llavaflow.infra.errors import InputError
from llavaflow.models import projector as projectors
from llavaflow.models.backbone import original_body
from llavaflow.models.llava import Llava
from llavaflow.models.names import original_name, our_name
from llavaflow.models.quantization import Quantization
from llavaflow.models.weights import read_file, read_object

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

ADAPTER, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
CONFIG = "adapter_config.json"
OTHERS = "non_lora_trainables.bin"
UPSTREAM_PREFIX = "base_model.model."
_PAIR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight$")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Rank, scale (alpha / r), dropout, and which biases train: none is what every published recipe uses.

    quantization: QLoRA, the frozen weights in few bits while the adapters learn.
    """

    r: int = 128
    alpha: int = 256
    dropout: float = 0.05
    bias: Literal["none"] = "none"
    quantization: Quantization | None = None

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
    if lora.quantization is not None:
        # peft takes its layers for rounded weights where it finds this said
        language.is_loaded_in_4bit = lora.quantization.bits == 4
        language.is_loaded_in_8bit = lora.quantization.bits == 8
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


def restored(state: Mapping[str, torch.Tensor], plain: Llava) -> State:
    """What a quantised run trained, on the weights of the same model as they were before they were rounded."""
    trained = {name: value for name, value in state.items() if is_adapter(name) or ".multi_modal_projector." in name}
    return {**plain.model.state_dict(), **trained}


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


def write(
    folder: Path, state: Mapping[str, torch.Tensor], lora: Lora, llava: Llava, beside: Iterable[str] = ()
) -> None:
    """Write adapter, its configuration and the other trained weights in upstream's naming.

    `beside`: what trained beside adapters and projector, such as weights of the tower, by its name in `state`.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(name, _PAIR.match(name)) for name in state]
    body = original_body(llava.model.config.text_config)
    adapter = {_upstream(match, body): state[name].contiguous() for name, match in pairs if match}
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
    others |= {f"{UPSTREAM_PREFIX}{original_name(name, body)}": state[name] for name in beside}
    torch.save(others, folder / OTHERS)


def _upstream(match: re.Match[str], body: str) -> str:
    return f"{UPSTREAM_PREFIX}{original_name(match.group(1), body)}.lora_{match.group(2)}.weight"


def merge_folder(llava: Llava, folder: Path) -> None:
    """Merge an adapter folder (ours or upstream's) into a model that was built for it.

    Raises InputError when a file is missing, when the adapter was made for a model of other shapes, and when it holds
    what cannot be merged by adding a product.
    """
    missing = [name for name in (CONFIG, OTHERS) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} lacks {' and '.join(missing)}: an adapter without the projector trained beside it gives "
            "gibberish. Take the folder that holds both files."
        )
    scale = _scale(folder / CONFIG)
    state = dict(llava.model.state_dict())
    _put_others(state, llava, folder / OTHERS)
    body = original_body(llava.model.config.text_config)
    for name, value in _read_adapter(folder).items():
        match = _PAIR.match(name.removeprefix(UPSTREAM_PREFIX))
        if match is None:
            raise InputError(f"{folder}: {name} is no matrix of a plain LoRA adapter: it cannot be merged.")
        module = our_name(match.group(1), body)
        _check_target(state.get(f"{module}.weight"), value, match.group(2), f"{folder}: {name}")
        state[f"{module}.lora_{match.group(2)}.weight"] = value
    llava.model.load_state_dict(merged(state, scale))


def _scale(path: Path) -> float:
    """What the product of the matrices is multiplied with."""
    config = read_object(path)
    odd = [key for key in ("use_dora", "rank_pattern", "alpha_pattern") if config.get(key)]
    if odd:
        raise InputError(f"{path} sets {', '.join(odd)}: only adapters of one rank and scale can be merged.")
    r, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(r, int) or not isinstance(alpha, (int, float)) or r < 1:
        raise InputError(f"{path} has r {r} and lora_alpha {alpha}: both are numbers in a LoRA adapter, r at least 1.")
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r)


def _put_others(state: State, llava: Llava, path: Path) -> None:
    """The weights that were trained beside the adapters, all of them: projector, rows of the marks, tower, newline."""
    file = projectors.read(path)
    projectors.check_fits(file.projector, llava.projector, str(path))
    found = {f"model.multi_modal_projector.{name}": value for name, value in projectors.to_transformers(file).items()}
    rows = projectors.mark_rows(file, llava.im_start_end, str(path)) if file.embeddings is not None else None
    if rows is not None:
        table = next(name for name in state if name.endswith(projectors.TABLES))
        found[table] = state[table].clone()
        found[table][llava.mark_ids] = rows.to(state[table].dtype)
    body = original_body(llava.model.config.text_config)
    for name, value in read_file(path).items():
        if not projectors.is_part(name):
            found[our_name(name.removeprefix(UPSTREAM_PREFIX), body)] = value
    for name, value in found.items():
        if name not in state or state[name].shape != value.shape:
            held = tuple(state[name].shape) if name in state else "nothing"
            raise InputError(f"{path} holds {name} of {tuple(value.shape)}, the base {held}: it was made on another.")
        state[name] = value.to(state[name].dtype)


def _check_target(target: torch.Tensor | None, matrix: torch.Tensor, side: str, where: str) -> None:
    """Refuse an adapter matrix whose layer the base does not have, or has in another width."""
    if target is None:
        raise InputError(f"{where} adapts a layer that the base does not have: it was made on another model.")
    given, wanted = (matrix.shape[1], target.shape[1]) if side == "A" else (matrix.shape[0], target.shape[0])
    if given != wanted:
        raise InputError(f"{where} is {given} wide, the base's layer {wanted}: it was made on another model.")


def _read_adapter(folder: Path) -> State:
    for name in (ADAPTER, PICKLED_ADAPTER):
        if (folder / name).is_file():
            return dict(read_file(folder / name))
    raise InputError(f"{folder} holds neither {ADAPTER} nor {PICKLED_ADAPTER}.")
