"""MPT inside transformers' Llava: LLaVA-Lightning-MPT's language model.

This file travels: it is copied into every checkpoint with such a language model and loaded from there by plain
transformers (`trust_remote_code=True`), so it imports nothing but torch and transformers.

Three things keep MptModel out of Llava as it is: its embedding has another name, so has the weight that the output
head is tied to, and it takes no positions. Positions matter to it in one way only: ALiBi is relative, so a packed row
needs nothing but the block-diagonal mask, which is built here from positions that restart. And it ends nowhere, so a
row may be longer than one sample was ever meant to be.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, LlavaConfig, LlavaForConditionalGeneration, MptConfig, MptModel


class MptTextConfig(MptConfig):  # type: ignore[misc]
    """An MptConfig under a name of its own."""

    model_type = "mpt_text"


class MptTextModel(MptModel):  # type: ignore[misc]
    """MptModel with the embedding name and the arguments that Llava expects."""

    config_class = MptTextConfig
    _input_embed_layer = "wte"

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        given = inputs_embeds if input_ids is None else input_ids
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        self._context = seen + (0 if given is None else given.shape[1])
        if attention_mask is None and past_key_values is None and position_ids is not None:
            attention_mask = _block_mask(position_ids)
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    def build_mpt_alibi_tensor(self, num_heads: int, sequence_length: int, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Biases for the longest context that the configuration names, or for a row or an answer that goes beyond."""
        biases: torch.Tensor = super().build_mpt_alibi_tensor(
            num_heads, max(sequence_length, self._context), *args, **kwargs
        )
        return biases


def _block_mask(position_ids: torch.Tensor) -> torch.Tensor:
    """(rows, 1, tokens, tokens), 0 where a token may look and 1 where not: MPT reads a mask as "hidden"."""
    segments = (position_ids == 0).cumsum(-1)
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return (~same.tril()).float()


AutoConfig.register("mpt_text", MptTextConfig, exist_ok=True)
AutoModel.register(MptTextConfig, MptTextModel, exist_ok=True)


class MptLlavaConfig(LlavaConfig):  # type: ignore[misc]
    """A LlavaConfig that is read with this file, which makes the language model known first."""

    model_type = "mpt_llava"


class MptLlavaForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """transformers' Llava on MPT."""

    config_class = MptLlavaConfig
    _tied_weights_keys = {"lm_head.weight": "model.language_model.wte.weight"}


MptTextConfig.register_for_auto_class()
MptTextModel.register_for_auto_class("AutoModel")
MptLlavaConfig.register_for_auto_class()
MptLlavaForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
