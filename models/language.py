"""Language model families: which templates go with each, what LoRA touches, what its class needs inside Llava.

A family is read from the configuration (model type and vocabulary), never from a folder's name: upstream chose classes
and templates by substrings of the path, so that renaming a folder changed the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llavaflow.infra.errors import InputError
from llavaflow.models.templates import Template, for_family


@dataclass(frozen=True, kw_only=True)
class LanguageFamily:
    """One kind of decoder.

    model_types   `model_type` of its configurations
    vocabularies  sizes that tell it from others of the same type (added rows allowed); empty: any
    block         class of one layer, for checkpointing and sharding
    linears       linear layers of a block, by their last name: upstream's LoRA targets
    """

    name: str
    model_types: tuple[str, ...]
    vocabularies: tuple[int, ...] = ()
    block: str
    linears: tuple[str, ...]

    @property
    def templates(self) -> list[str]:
        return for_family(self.name)


_LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _llama(name: str, *vocabularies: int) -> LanguageFamily:
    return LanguageFamily(
        name=name,
        model_types=("llama",),
        vocabularies=vocabularies,
        block="LlamaDecoderLayer",
        linears=_LLAMA_LINEARS,
    )


FAMILIES: dict[str, LanguageFamily] = {
    family.name: family
    for family in (
        _llama("llama-3", 128256),
        _llama("yi", 64000),
        # Vicuna and LLaMA-2-Chat are LLaMA: only the data they were tuned on tells them apart
        _llama("vicuna"),
        _llama("llama-2"),
        _llama("llama"),
        LanguageFamily(name="mistral", model_types=("mistral",), block="MistralDecoderLayer", linears=_LLAMA_LINEARS),
        LanguageFamily(name="qwen", model_types=("qwen2",), block="Qwen2DecoderLayer", linears=_LLAMA_LINEARS),
        LanguageFamily(name="gemma", model_types=("gemma",), block="GemmaDecoderLayer", linears=_LLAMA_LINEARS),
        LanguageFamily(
            name="mpt",
            model_types=("mpt", "mpt_text"),
            block="MptBlock",
            linears=("Wqkv", "out_proj", "up_proj", "down_proj"),
        ),
    )
}
# added tokens (<image>, padding to a multiple) make a vocabulary this much larger at most
_ADDED_ROWS = 512


def families_of(config: Any) -> list[LanguageFamily]:
    """The families that a configuration may belong to: one, or the LLaMA relatives that look alike."""
    config = getattr(config, "text_config", config)
    kin = [family for family in FAMILIES.values() if config.model_type in family.model_types]
    if not kin:
        known = sorted({kind for family in FAMILIES.values() for kind in family.model_types})
        raise InputError(f"a '{config.model_type}' model is no language model we know. Known: {', '.join(known)}.")
    size = int(config.vocab_size)
    marked = [f for f in kin if any(rows <= size <= rows + _ADDED_ROWS for rows in f.vocabularies)]
    return marked or [family for family in kin if not family.vocabularies]


def check_template(template: Template, config: Any, tokenizer: Any) -> None:
    """Refuse a template made for another family, or whose marks this tokenizer would cut to pieces."""
    families = families_of(config)
    names = {family.name for family in families}
    if not names & set(template.families) and "any" not in template.families:
        fitting = sorted({name for family in families for name in family.templates})
        raise InputError(
            f"template {template.name} is made for {', '.join(template.families)}; this language model is "
            f"{' or '.join(sorted(names))}. Templates for it: {', '.join(fitting)}."
        )
    broken = [mark for mark in template.stop if mark.startswith("<") and not _one_token(mark, tokenizer)]
    if broken:
        raise InputError(
            f"template {template.name} ends an answer with {broken[0]!r}, which this tokenizer cuts into "
            f"{len(_pieces(broken[0], tokenizer))} tokens: it belongs to another language model."
        )


def _pieces(mark: str, tokenizer: Any) -> list[int]:
    return list(tokenizer(mark, add_special_tokens=False)["input_ids"])


def _one_token(mark: str, tokenizer: Any) -> bool:
    return len(_pieces(mark, tokenizer)) == 1
