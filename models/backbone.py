"""The language model of a LLaVA: loaded with its tokenizer, given the tokens and the rows that images need.

It comes from a plain language model or from an original LLaVA folder, whose configuration transformers would take for
its own Llava class. MPT is put into the class that Llava can hold (`mpt.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llavaflow.infra.errors import InputError
from llavaflow.models.quantization import Quantization, settings_of
from llavaflow.models.weights import load_whole

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bf16", "fp16"]
IMAGE_TOKEN = "<image>"
ROWS_MULTIPLE = 64
ORIGINAL_LANGUAGES = {
    "Llama": "llama",
    "Mistral": "mistral",
    "Qwen": "qwen2",
    "Gemma": "gemma",
    "MPT": "mpt",
    "Mpt": "mpt",
}
# weights of an original LLaVA folder that are none of the language model's
OTHER_WEIGHTS = ("mm_projector", "vision_tower", "image_newline", "rotary_emb.inv_freq")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A decoder without its head, the head, and the tokenizer of both."""

    body: Any
    head: Any
    tokenizer: Any

    @property
    def config(self) -> Any:
        return self.body.config


def dtype(precision: Precision | None) -> torch.dtype | Literal["auto"]:
    """The torch type of the weights; None keeps what is stored."""
    import torch

    if precision is None:
        return "auto"
    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def precision_here() -> Precision:
    """What to answer in on this machine: half precision on a GPU, bf16 where it has it."""
    import torch

    if not torch.cuda.is_available():
        return "float32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def original_body(config: Any) -> str:
    """What the names of a language model's weights begin with in upstream's files, by its configuration."""
    return "transformer." if config.model_type == "mpt_text" else "model."


def load_backbone(
    name: str,
    precision: Precision | None,
    *,
    attention: str,
    im_start_end: bool = False,
    quantization: Quantization | None = None,
) -> Backbone:
    """Tokenizer and language model, with a token and an embedding row for the image and, if asked, for its marks."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    inner = _text_config(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        config = inner or AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot load the language model '{name}': {reason} Give a hub name or a folder.") from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    model = load_whole(
        AutoModelForCausalLM,
        name,
        known=OTHER_WEIGHTS if inner is not None else (),
        config=config,
        dtype=dtype(precision),
        # MPT's attention has one implementation
        attn_implementation="eager" if config.model_type == "mpt" else attention,
        **(settings_of(quantization, precision) if quantization else {}),
    )
    _add_tokens(tokenizer, model, im_start_end, joined=inner is not None)
    if model.config.model_type == "mpt":
        return _mpt(model, tokenizer)
    return Backbone(body=model.model, head=model.lm_head, tokenizer=tokenizer)


def _add_tokens(tokenizer: Any, model: Any, im_start_end: bool, *, joined: bool) -> None:
    """`<image>`, and after it <im_start> and <im_end>. A model that was joined before (`joined`) has learned its rows
    of the two, so its tokenizer must know them."""
    from llavaflow.models import marks

    if im_start_end and joined and marks.MARKS[0] not in tokenizer.get_vocab():
        raise InputError(
            f"{tokenizer.name_or_path} was trained with <im_start> and <im_end> (mm_use_im_start_end), but its "
            "tokenizer does not know them. Take the tokenizer that was saved with the model."
        )
    wanted = [IMAGE_TOKEN, *(marks.MARKS if im_start_end else ())]
    new = [mark for mark in wanted if mark not in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"additional_special_tokens": wanted}, replace_extra_special_tokens=False)
    _grow_vocabulary(model, len(tokenizer))
    begun = [tokenizer.convert_tokens_to_ids(mark) for mark in new if mark in marks.MARKS]
    if begun:
        marks.begin(model, begun)


def _grow_vocabulary(model: Any, needed: int) -> None:
    """Add rows up to the tokenizer's size. New rows are the mean of the old: they never win, and need no seed."""
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    if needed <= rows:
        return
    model.resize_token_embeddings(needed, pad_to_multiple_of=ROWS_MULTIPLE, mean_resizing=False)
    with torch.no_grad():
        for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            table[rows:] = table[:rows].float().mean(dim=0).to(table.dtype)


def _mpt(model: Any, tokenizer: Any) -> Backbone:
    """The same weights in the class whose arguments are those that Llava gives."""
    import torch

    from llavaflow.models.mpt import MptTextConfig, MptTextModel

    settings = {key: value for key, value in model.config.to_dict().items() if key not in ("model_type", "auto_map")}
    with torch.device("meta"):
        body = MptTextModel(MptTextConfig(**settings))
    body.load_state_dict(model.transformer.state_dict(), assign=True)
    model.lm_head.weight = body.wte.weight
    return Backbone(body=body, head=model.lm_head, tokenizer=tokenizer)


def _text_config(name: str) -> Any:
    """None for a plain language model; for an original LLaVA folder the configuration of the language model in it."""
    from transformers import AutoConfig

    path = Path(name) / "config.json"
    settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if "mm_projector_type" not in settings and "mm_vision_tower" not in settings:
        return None
    architecture = str((settings.pop("architectures", None) or ["LlavaLlamaForCausalLM"])[0])
    kind = next((kind for word, kind in ORIGINAL_LANGUAGES.items() if word in architecture), None)
    if kind is None:
        raise InputError(f"{path} has architecture {architecture}; known: {', '.join(ORIGINAL_LANGUAGES)}.")
    # the type of the numbers is that of the weights, whatever was said when the configuration was written
    foreign = ("model_type", "auto_map", "dtype", "torch_dtype")
    return AutoConfig.for_model(kind, **{key: value for key, value in settings.items() if key not in foreign})
