"""QLoRA: the frozen language model in 4 or 8 bits, by bitsandbytes through transformers.

Upstream's `--bits 4` quantises every linear layer of the language model but its head (nf4, constants quantised again,
products computed in the training precision) and keeps projector and tower as they are. (It also turns norms to
float32, which DeepSpeed's bf16 engine turns back at once.) What comes out is an adapter for the model in full
precision: it is merged into that, never into the rounded one.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from llavaflow.infra.errors import InputError

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig


# modules that stay as they are, by the beginning of their names
KEPT = ("lm_head", "model.multi_modal_projector", "model.vision_tower")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """bits: 4 or 8. quant_type, double_quant: of 4 bits; the defaults are those of upstream's code."""

    bits: Literal[4, 8] = 4
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True


def check_available(quantization: Quantization) -> None:
    """Refuse to quantise where it cannot be done. Raises InputError saying what is missing."""
    import torch

    missing = []
    if not torch.cuda.is_available():
        missing.append("a CUDA device (this machine has none)")
    try:
        metadata.version("bitsandbytes")
    except metadata.PackageNotFoundError:
        missing.append("the package bitsandbytes (pip install 'llavaflow[qlora]')")
    if missing:
        raise InputError(
            f"a language model in {quantization.bits} bits needs {' and '.join(missing)}. "
            "Train without quantization: plain LoRA needs about four times the memory for the frozen weights."
        )


def config_of(quantization: Quantization, precision: str | None) -> BitsAndBytesConfig:
    """What transformers is asked for, value by value as in upstream's training code."""
    import torch
    from transformers import BitsAndBytesConfig

    four = quantization.bits == 4
    return BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        llm_int8_skip_modules=list(KEPT),
        llm_int8_threshold=6.0,
        llm_int8_has_fp16_weight=False,
        bnb_4bit_compute_dtype={"float32": torch.float32, "fp16": torch.float16}.get(precision or "", torch.bfloat16),
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_quant_type=quantization.quant_type,
    )


def settings_of(quantization: Quantization, precision: str | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` on this worker's device. Raises InputError where that cannot be done."""
    import torch

    check_available(quantization)
    return {
        "quantization_config": config_of(quantization, precision),
        "device_map": {"": torch.cuda.current_device()},
    }

