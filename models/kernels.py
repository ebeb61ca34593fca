"""Which kernels a training run computes with: what the machine has, what was asked for, and the line that says so.

    LLAVAFLOW_KERNELS="flash=off,compile=on"      on forces, off forbids; what is not named is chosen

flash    attention by the flash-attn package
varlen   attention by torch's own kernel for rows of several samples; where neither can be, it is sdpa with a dense mask
liger    norms, rotations, gates and the loss by the liger-kernel package; without it the loss goes in parts
compile  every layer of the language model through torch.compile

None of this is identity: results agree up to rounding. That they do is looked at before the first step: an attention
kernel that gives other numbers than samples one by one is not used.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal

from llavaflow.infra.errors import InputError, unknown

SETTING = "LLAVAFLOW_KERNELS"
SWITCHES = ("flash", "varlen", "liger", "compile")
SDPA = "sdpa"
VARLEN = "varlen"
# flash kernels exist from this generation of GPUs on (Ampere)
LEAST_CAPABILITY = (8, 0)

Wish = Literal["on", "off"]
Wishes = Mapping[str, Wish]


@dataclass(frozen=True, kw_only=True)
class Present:
    """What this machine has: a GPU or not, and per switch why it cannot be on (no entry: it can)."""

    cuda: bool
    obstacles: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The choice. `attention` is a name that transformers knows once `models/attention.py` is imported; `reasons` say
    why the faster ones are off."""

    attention: str = SDPA
    liger: bool = False
    compile: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def dense_mask(self) -> bool:
        """Attention costs the square of a row, whatever the samples in it."""
        return self.attention == SDPA

    def __str__(self) -> str:
        loss, compiled = "by liger" if self.liger else "in parts", "on" if self.compile else "off"
        names: dict[str, list[str]] = {}
        for name, reason in self.reasons.items():
            names.setdefault(reason, []).append(name)
        why = "; ".join(f"{', '.join(switches)}: {reason}" for reason, switches in names.items())
        return f"attention {self.attention}, loss {loss}, compile {compiled}" + (f" (off: {why})" if why else "")


def parse(text: str) -> Wishes:
    """`flash=off,compile=on` as a mapping. Raises InputError for an unknown switch or value."""
    wishes: dict[str, Wish] = {}
    for word in text.replace(",", " ").split():
        name, _, value = word.partition("=")
        if name not in SWITCHES:
            raise unknown("kernel", name, SWITCHES, f"{SETTING}={text}")
        if value != "on" and value != "off":
            raise InputError(f"{SETTING}: {name} is '{value}'. Write {name}=on to force it or {name}=off to forbid it.")
        wishes[name] = "on" if value == "on" else "off"
    return wishes


def present() -> Present:
    """What this machine has. Nothing heavy is imported beside torch."""
    import torch

    cuda = torch.cuda.is_available()
    old = cuda and torch.cuda.get_device_capability() < LEAST_CAPABILITY
    gpu = "no GPU" if not cuda else "the GPU is older than Ampere" if old else ""
    builder = "" if find_spec("triton") else "triton is not installed"
    found = {
        "flash": gpu or _package("flash_attn", "flash"),
        "varlen": gpu or ("" if find_spec("torch.nn.attention.varlen") else f"torch {torch.__version__} has none"),
        "liger": gpu or _package("liger_kernel", "liger"),
        "compile": builder if cuda else "" if shutil.which("g++") else "no GPU and no C++ compiler",
    }
    return Present(cuda=cuda, obstacles={name: reason for name, reason in found.items() if reason})


def _package(module: str, extra: str) -> str:
    return "" if find_spec(module) else f"{module} is not installed (pip install 'llavaflow[{extra}]')"


def choose(wishes: Wishes, machine: Present, *, zero: int, half: bool, family: str) -> Kernels:
    """The fastest kernels that machine, run and wishes allow. `half`: bf16; `family`: model type of the language model.

    Raises InputError when a forced one cannot be.
    """
    obstacles = _of_run(zero, half, family) | dict(machine.obstacles)
    # chosen only when asked for: a compiled layer costs minutes at the start, which a CPU never wins back
    hesitations = {} if machine.cuda else {"compile": "it takes longer than it saves without a GPU"}
    reasons: dict[str, str] = {}

    def may(name: str) -> bool:
        wish = wishes.get(name)
        reason = "forbidden" if wish == "off" else obstacles.get(name, "")
        if wish == "on" and reason:
            raise InputError(f"{SETTING} forces {name}, but {reason}. Leave {name}=on out, or provide what it needs.")
        reason = reason or ("" if wish == "on" else hesitations.get(name, ""))
        if reason:
            reasons[name] = reason
        return not reason

    flash, varlen, liger, compiled = map(may, SWITCHES)
    if wishes.get("varlen") == "on" and flash:
        if wishes.get("flash") == "on":
            raise InputError(f"{SETTING} forces flash and varlen; attention can be computed by one of them.")
        flash = False
    attention = "flash_attention_2" if flash else VARLEN if varlen else SDPA
    if attention != SDPA:
        reasons = {name: reason for name, reason in reasons.items() if name not in ("flash", "varlen")}
    return Kernels(attention=attention, liger=liger, compile=compiled, reasons=reasons)


def _of_run(zero: int, half: bool, family: str) -> dict[str, str]:
    """Why this run cannot use them, wherever it runs."""
    found: dict[str, str] = {}
    if not half:
        found |= dict.fromkeys(("flash", "varlen"), "they compute in half precision")
    if "mpt" in family:
        found |= dict.fromkeys(("flash", "varlen", "liger"), "MPT's attention has its own bias")
    if zero == 3:
        found |= dict.fromkeys(("liger", "compile"), "ZeRO-3 has the weights in pieces")
    return found


def settle(wishes: Wishes, *, zero: int, half: bool, family: str) -> Kernels:
    """`choose` for this machine, without attention kernels that give wrong numbers on it."""
    from llavaflow.models.attention import agrees

    machine = present()
    device = "cuda" if machine.cuda else "cpu"
    while True:
        kernels = choose(wishes, machine, zero=zero, half=half, family=family)
        if kernels.dense_mask or agrees(kernels.attention, device):
            return kernels
        name = VARLEN if kernels.attention == VARLEN else "flash"
        machine = replace(machine, obstacles={**machine.obstacles, name: "it gives other numbers on this GPU"})


def apply(kernels: Kernels, llava: Any) -> None:
    """Switch a LLaVA model of transformers over to these kernels, in place. The loss is the objective's."""
    language = llava.model.language_model
    if kernels.attention != SDPA:
        import llavaflow.models.attention  # noqa: F401  makes `varlen` known to transformers

        language.set_attn_implementation(kernels.attention)
    if kernels.liger:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(model=language, cross_entropy=False, fused_linear_cross_entropy=False)
    if kernels.compile:
        for layer in language.layers:
            layer.compile(dynamic=True)
