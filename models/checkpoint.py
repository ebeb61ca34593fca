"""Checkpoint formats: say what a file or folder is, and turn one format into another.

    original      the layout of the original LLaVA code (`original.py`)
    hf            transformers' Llava class with processor; keys on disk begin with language_model, vision_tower,
                  multi_modal_projector
    projector     `mm_projector.bin` alone
    lora          adapter weights and non_lora_trainables.bin
    delta         an original checkpoint from which the base language model was subtracted

Folders are read by their content, never by their name (upstream's loader takes a renamed folder for another
architecture).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llavaflow.infra.artifact import Json
from llavaflow.infra.errors import InputError
from llavaflow.models import forms, lora, original
from llavaflow.models import llava as llavas
from llavaflow.models import projector as projectors
from llavaflow.models.llava import Llava
from llavaflow.models.weights import read_config, read_state, weight_files

if TYPE_CHECKING:
    import torch

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# the tables that may have grown by added tokens
GROWN = ("model.embed_tokens.weight", "lm_head.weight")
# kept in weights by older transformers, computed by newer
COMPUTED = "rotary_emb.inv_freq"


def describe(path: Path, base: Path | None = None) -> dict[str, Json]:
    """What a checkpoint is, and whether its projector fits a base checkpoint."""
    form, source = format_of(path), path
    document: dict[str, Json] = {"path": str(path), "format": form}
    if form in ("projector", "lora"):
        source = path if path.is_file() else path / (lora.OTHERS if form == "lora" else projectors.FILE)
        file = projectors.read(source)
        projector = file.projector
        document |= {"projector": str(projector), "im_start_end": file.embeddings is not None}
    else:
        config, projector = read_config(path), projector_of(path)
        document |= {"model_type": config.get("model_type"), "projector": str(projector)}
        document["im_start_end"] = bool(config.get(llavas.MARKS_KEY, False))
        if form == "original":
            document["vision_tower"] = config.get("mm_vision_tower")
    if base is not None:
        projectors.check_fits(projector, _wanted_by(base, projector), str(source))
        document["fits"] = str(base)
    return document


def _wanted_by(base: Path, projector: projectors.Projector) -> projectors.Projector:
    """The projector that a base takes; a plain language model decides about nothing but its own width."""
    config = read_config(base)
    if any(key in config for key in ("vision_config", "mm_projector_type", "mm_vision_tower")):
        format_of(base)
        return projector_of(base)
    width = config.get("hidden_size") or config.get("d_model")
    if not width:
        raise InputError(f"{base}/config.json says no hidden_size: it is neither a LLaVA nor a language model.")
    return replace(projector, language_width=width)


def format_of(path: Path) -> str:
    """projector, lora, hf or original; InputError for anything else."""
    if path.is_file():
        return "projector"
    if (path / lora.CONFIG).is_file():
        return "lora"
    if (path / "config.json").is_file() and weight_files(path):
        config = read_config(path)
        if "vision_config" not in config:
            return "original"
        # a CLIP has a vision_config too
        forms.classes(str(config.get("model_type")))
        return "hf"
    if (path / projectors.FILE).is_file():
        return "projector"
    raise InputError(
        f"{path} is no checkpoint: expected {projectors.FILE}, {lora.CONFIG}, or config.json with weights."
    )


def projector_of(path: Path) -> projectors.Projector:
    """Type and widths of a whole checkpoint's projector, from its configuration or its weights."""
    config = read_config(path)
    if "vision_config" in config:
        vision, text = config["vision_config"], config["text_config"]
        return projectors.Projector(
            kind=llavas.projector_kind(config),
            vision_width=vision.get("hidden_size") or vision.get("hidden_sizes", [1024])[-1],
            language_width=text.get("hidden_size") or text.get("d_model", 4096),
        )
    return projectors.parse(read_state(path), str(path), config.get(llavas.PROJECTOR_KEY)).projector


def convert(source: Path, out: Path, form: str, vision: str | None) -> None:
    """Write `source` in another format; see the module for what the formats are."""
    given = format_of(source)
    if form == "projector":
        file = _projector_file(source, given)
        if not file.state:
            raise InputError(f"{source} has projector {file.projector}, which has no weights to write.")
        out.mkdir(parents=True, exist_ok=True)
        projectors.write(out / projectors.FILE, file)
    elif (given, form) == ("original", "hf"):
        llavas.save(original.from_original(source, vision), out)
    elif (given, form) == ("hf", "original"):
        original.to_original(llavas.load(str(source), precision=None), out, vision)
    else:
        raise InputError(f"{source} is in {given} format and cannot be written as {form}.")


def _projector_file(source: Path, given: str) -> projectors.ProjectorFile:
    """The projector of a whole model, with the rows of <im_start> and <im_end> if it has them."""
    if given in ("projector", "lora"):
        raise InputError(f"{source} is in {given} format already: it holds nothing but a projector or an adapter.")
    model = llavas.load(str(source), precision=None) if given == "hf" else None
    if model is not None:
        return projectors.from_transformers(model.model.state_dict(), model.projector, model.mark_ids)
    state = read_state(source)
    file = projectors.parse(state, str(source))
    marked = read_config(source).get(llavas.MARKS_KEY, False)
    rows = _mark_rows(source, file) if marked else None
    return projectors.ProjectorFile(projector=file.projector, state=file.state, embeddings=rows)


def _mark_rows(source: Path, file: projectors.ProjectorFile) -> torch.Tensor:
    from transformers import AutoTokenizer

    from llavaflow.models.marks import MARKS

    ids = AutoTokenizer.from_pretrained(source).convert_tokens_to_ids(MARKS)
    if file.embeddings is None:
        raise InputError(f"{source} says mm_use_im_start_end and holds no embedding table.")
    return file.embeddings[ids]


def merge_lora(adapter: Path, base: Path, out: Path, vision: str | None) -> None:
    """Write `base` with an adapter folder (ours or upstream's) merged in, in Hugging Face format.

    The base is a whole LLaVA in either format or, for a folder of upstream's, the plain language model it was made on;
    its config.json then names the tower, unless `vision` does. Raises InputError when adapter and base do not fit.
    """
    if format_of(adapter) != "lora":
        raise InputError(f"{adapter} is no adapter: it has no {lora.CONFIG}.")
    llava = base_of(adapter, base, vision)
    lora.merge_folder(llava, adapter)
    llavas.save(llava, out)


def base_of(adapter: Path, base: Path, vision: str | None) -> Llava:
    """The model that an adapter belongs to, before it is merged in. Raises InputError when it cannot be told."""
    config = read_config(base)
    if "vision_config" in config:
        return llavas.load(str(base), precision=None)
    if any(".mm_projector." in name for name in read_state(base)):
        return original.from_original(base, vision)
    if not (adapter / "config.json").is_file():
        raise InputError(
            f"{base} is a plain language model, and {adapter} has no config.json to say how it is joined with a tower. "
            "Give the whole LLaVA checkpoint that the adapter was trained on as --base."
        )
    return original.join(read_config(adapter), str(base), vision, projectors.read(adapter / lora.OTHERS))


def apply_delta(base: Path, delta: Path, out: Path) -> dict[str, Json]:
    """base + delta in float16, as upstream adds them: only projector weights may be absent in the base, and only
    tables grown by added tokens may differ in shape (the base is added to their top-left block)."""
    from safetensors.torch import save_file

    read_config(delta)
    old, new = read_state(base), read_state(delta)
    unknown = [name for name in old if name not in new and not name.endswith(COMPUTED)]
    if unknown:
        raise InputError(f"{base} has {unknown[0]}, which {delta} lacks: it is the base of another delta.")
    total = {
        name: _sum(name, value, old.get(name), base, delta)
        for name, value in new.items()
        if not name.endswith(COMPUTED)
    }
    projector = str(projectors.parse(total, str(delta)).projector)
    out.mkdir(parents=True, exist_ok=True)
    save_file(total, out / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json", *TOKENIZER_FILES):
        if (delta / name).is_file():
            shutil.copyfile(delta / name, out / name)
    return {"path": str(out), "tensors": len(total), "projector": projector}


def _sum(name: str, new: torch.Tensor, old: torch.Tensor | None, base: Path, delta: Path) -> torch.Tensor:
    import torch

    total = new.to(torch.float16).clone()
    if old is None:
        if ".mm_projector." not in name:
            raise InputError(f"{delta} has {name}, which {base} lacks: it is a delta of another model.")
        return total
    known = old.to(torch.float16)
    if known.shape == total.shape:
        return total + known
    rows, columns = known.shape if name in GROWN else (0, 0)
    if not rows or rows > total.shape[0] or columns != total.shape[1]:
        shapes = f"{tuple(total.shape)} against {tuple(known.shape)}"
        raise InputError(f"{name} has another shape in {delta} than in {base}: {shapes}.")
    total[:rows, :columns] += known
    return total
