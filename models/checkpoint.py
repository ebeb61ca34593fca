"""Checkpoint formats: say what a file or folder is, and turn the original LLaVA's layout into Hugging Face's and back.

    original      one language model whose state also holds `model.mm_projector.*`; the tower is named in config.json
                  (`mm_vision_tower`) and only stored, under `model.vision_tower.vision_tower.*`, if it was trained
    hf            transformers' Llava class with processor; keys on disk begin with language_model, vision_tower,
                  multi_modal_projector
    projector     `mm_projector.bin` alone
    lora          adapter weights and non_lora_trainables.bin
    delta         an original checkpoint from which the base language model was subtracted

Conversions rename and copy tensors; no value changes, so a round trip is exact. Folders are read by their content,
never by their name (upstream's loader takes a renamed folder for another architecture).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.models import llava as llavas
from llavaflow.models import lora
from llavaflow.models import projector as projectors
from llavaflow.models.llava import Design, Llava

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

TOWER = "model.vision_tower.vision_tower."
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
# the tables that may have grown by added tokens
GROWN = ("model.embed_tokens.weight", "lm_head.weight")


def describe(path: Path, base: Path | None = None) -> dict[str, Json]:
    """What a checkpoint is, and whether its projector fits a base checkpoint."""
    form = format_of(path)
    document: dict[str, Json] = {"path": str(path), "format": form}
    if form in ("projector", "lora"):
        source = path if path.is_file() else path / (lora.OTHERS if form == "lora" else projectors.FILE)
        file = projectors.read(source)
        document |= {"projector": str(file.projector), "im_start_end": file.embeddings is not None}
        if base is not None:
            projectors.check_fits(file.projector, projector_of(base), str(source))
            document["fits"] = str(base)
    else:
        config = _config(path)
        document |= {"model_type": config.get("model_type"), "projector": str(projector_of(path))}
        if form == "original":
            document["vision_tower"] = config.get("mm_vision_tower")
    return document


def format_of(path: Path) -> str:
    """projector, lora, hf or original; InputError for anything else."""
    if path.is_file():
        return "projector"
    if (path / lora.CONFIG).is_file():
        return "lora"
    if (path / "config.json").is_file() and weight_files(path):
        return "hf" if "vision_config" in _config(path) else "original"
    if (path / projectors.FILE).is_file():
        return "projector"
    raise InputError(
        f"{path} is no checkpoint: expected {projectors.FILE}, {lora.CONFIG}, or config.json with weights."
    )


def projector_of(path: Path) -> projectors.Projector:
    """Type and widths of a whole checkpoint's projector, from its configuration or its weights."""
    config = _config(path)
    if "vision_config" in config:
        return projectors.Projector(
            kind="mlp2x_gelu" if config.get("projector_hidden_act", "gelu") == "gelu" else "linear",
            vision_width=config["vision_config"].get("hidden_size", 1024),
            language_width=config["text_config"].get("hidden_size", 4096),
        )
    return projectors.parse(read_state(path), str(path)).projector


def convert(source: Path, out: Path, form: str, vision: str | None) -> dict[str, Json]:
    """Write `source` in another format; see the module for what the formats are."""
    given = format_of(source)
    if form == "projector":
        projector_file = _projector_file(source, given)
        out.mkdir(parents=True, exist_ok=True)
        projectors.write(out / projectors.FILE, projector_file)
    elif (given, form) == ("original", "hf"):
        llavas.save(from_original(source, vision), out)
    elif (given, form) == ("hf", "original"):
        to_original(llavas.load(str(source), precision=None), out)
    else:
        raise InputError(f"{source} is in {given} format and cannot be written as {form}.")
    return describe(out)


def _projector_file(source: Path, given: str) -> projectors.ProjectorFile:
    if given == "hf":
        model = llavas.load(str(source), precision=None)
        return projectors.from_transformers(model.model.state_dict(), model.projector)
    if given == "original":
        return projectors.parse(read_state(source), str(source))
    raise InputError(f"{source} is in {given} format already holds nothing but a projector or an adapter.")


def from_original(source: Path, vision: str | None) -> Llava:
    """A model in transformers' class from an original LLaVA folder (Llama language model)."""
    import torch

    config = _config(source)
    tower = vision or config.get("mm_vision_tower")
    if not tower:
        raise InputError(f"{source}/config.json names no mm_vision_tower: say which with --vision.")
    state = read_state(source)
    file = projectors.parse(state, str(source))
    design = Design(
        projector=file.projector.kind,
        select_layer=config.get("mm_vision_select_layer", -2),
        select_feature=config.get("mm_vision_select_feature", "patch"),
        image_aspect=config.get("image_aspect_ratio") or "square",
    )
    llava = llavas.build(tower, str(source), design, precision=None)
    model = llava.model.model
    projectors.check_fits(file.projector, llava.projector, str(source))
    dtype = model.multi_modal_projector.linear_1.weight.dtype
    layers = projectors.to_transformers(file)
    model.multi_modal_projector.load_state_dict({key: value.to(dtype) for key, value in layers.items()})
    trained = {key.removeprefix(TOWER): value for key, value in state.items() if key.startswith(TOWER)}
    if trained:
        with torch.no_grad():
            model.vision_tower.load_state_dict({key.removeprefix("vision_model."): v for key, v in trained.items()})
    return llava


def to_original(llava: Llava, out: Path) -> None:
    """Write the original layout: the language model's own files with projector and tower keys beside them."""
    from safetensors.torch import save_file

    state: State = {}
    for name, value in llava.model.state_dict().items():
        if ".multi_modal_projector." not in name:
            state[_original_name(name)] = value.detach().clone().contiguous()
    file = projectors.from_transformers(llava.model.state_dict(), llava.projector)
    plain = llava.projector.kind == "linear"
    for key, value in file.state.items():
        state[projectors.PREFIX + (key.split(".")[1] if plain else key)] = value.detach().clone().contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    text, config = llava.model.config.text_config.to_dict(), llava.model.config
    text |= {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "mm_projector_type": llava.projector.kind,
        "mm_hidden_size": llava.projector.vision_width,
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "cls_patch" if llava.image_rule.class_token else "patch",
        "image_aspect_ratio": llava.image_rule.aspect,
        "unfreeze_mm_vision_tower": True,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
    }
    (out / "config.json").write_text(json.dumps(text, indent=2, default=str), "utf-8")
    llava.tokenizer.save_pretrained(out)


def _original_name(name: str) -> str:
    if name.startswith("model.vision_tower."):
        return f"{TOWER}vision_model.{name.removeprefix('model.vision_tower.')}"
    return name.replace("model.language_model.", "model.", 1)


def apply_delta(base: Path, delta: Path, out: Path) -> dict[str, Json]:
    """base + delta in float16, as upstream adds them: only projector weights may be absent in the base, and only
    tables grown by added tokens may differ in shape (the base is added to their top-left block)."""
    import torch
    from safetensors.torch import save_file

    old, new = read_state(base), read_state(delta)
    for name, value in new.items():
        total = value.to(torch.float16)
        if name not in old:
            if ".mm_projector." not in name:
                raise InputError(f"{delta} has {name}, which {base} lacks: it is a delta of another model.")
        elif old[name].shape == total.shape:
            total = total + old[name].to(torch.float16)
        elif name in GROWN:
            rows, columns = old[name].shape
            total[:rows, :columns] += old[name].to(torch.float16)
        else:
            shapes = f"{tuple(total.shape)} against {tuple(old[name].shape)}"
            raise InputError(f"{name} has another shape in {delta} than in {base}: {shapes}.")
        new[name] = total.contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(new, out / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json", *TOKENIZER_FILES):
        if (delta / name).is_file():
            shutil.copyfile(delta / name, out / name)
    return {"path": str(out), "tensors": len(new), "projector": str(projectors.parse(new, str(out)).projector)}


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, safetensors before pickled ones."""
    names = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return [path for path in names if path.name != lora.ADAPTER]


def read_state(folder: Path) -> State:
    """All weights of a folder, loaded without running code from it."""
    import torch
    from safetensors.torch import load_file

    state: State = {}
    for path in weight_files(folder):
        safe = path.suffix == ".safetensors"
        part: Mapping[str, Any] = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        state.update(part)
    if not state:
        raise InputError(f"no weights in {folder}: expected *.safetensors or pytorch_model*.bin.")
    return state


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} has no config.json.")
    config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return config
