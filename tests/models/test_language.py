"""Families are told by configuration; tiny models of each pack without seeing each other and fit inside Llava."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from llavaflow.infra.errors import InputError
from llavaflow.models.labels import Encoded
from llavaflow.models.language import FAMILIES, check_template, families_of
from llavaflow.models.packing import collate_packed
from llavaflow.models.templates import template

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def text_config(kind: str, vocab: int = 70) -> Any:
    import transformers

    if kind == "mpt":
        from llavaflow.models.mpt import MptTextConfig

        return MptTextConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=vocab, max_seq_len=64)
    name = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen": "Qwen2Config"}[kind]
    return getattr(transformers, name)(**SHAPE, num_key_value_heads=2, vocab_size=vocab, pad_token_id=0)


def llava(kind: str) -> Any:
    import transformers

    from llavaflow.models.mpt import MptLlavaConfig, MptLlavaForConditionalGeneration

    vision = transformers.CLIPVisionConfig(**SHAPE, image_size=28, patch_size=14)
    made: dict[bool, tuple[Any, Any]] = {
        True: (MptLlavaConfig, MptLlavaForConditionalGeneration),
        False: (transformers.LlavaConfig, transformers.LlavaForConditionalGeneration),
    }
    config_class, model_class = made[kind == "mpt"]
    torch.manual_seed(0)
    text = text_config(kind)
    config = config_class(vision_config=vision, text_config=text, image_token_index=69, image_seq_length=4)
    config.tie_word_embeddings = text.tie_word_embeddings
    return model_class(config).eval()


@pytest.mark.parametrize(
    ("kind", "vocab", "names"),
    [
        ("llama", 32000, {"llama", "vicuna", "llama-2"}),
        ("llama", 32064, {"llama", "vicuna", "llama-2"}),
        ("llama", 64000, {"yi"}),
        ("llama", 128320, {"llama-3"}),
        ("mistral", 32000, {"mistral"}),
        ("qwen", 152064, {"qwen"}),
        ("mpt", 50432, {"mpt"}),
    ],
)
def test_families_are_told_by_configuration(kind: str, vocab: int, names: set[str]) -> None:
    assert {family.name for family in families_of(text_config(kind, vocab))} == names


class _Tokenizer:
    """Knows some marks as one token; anything else is letters."""

    def __init__(self, *marks: str) -> None:
        self.marks = marks

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [1] if text in self.marks else [ord(char) for char in text]}


def test_a_template_of_another_family_is_refused_before_any_loss_is_zero() -> None:
    llama, yi = text_config("llama", 32000), text_config("llama", 64000)
    check_template(template("v1"), llama, _Tokenizer("</s>"))
    check_template(template("plain"), yi, _Tokenizer())
    check_template(template("llava_v0"), llama, _Tokenizer())
    with pytest.raises(InputError, match=r"v1 is made for vicuna.*is yi\. Templates for it: chatml_direct, plain"):
        check_template(template("v1"), yi, _Tokenizer("</s>"))
    with pytest.raises(InputError, match=r"'<\|im_end\|>'.*cuts into 10 tokens"):
        check_template(template("chatml_direct"), yi, _Tokenizer())
    with pytest.raises(InputError, match="'clip_vision_model' model is no language model"):
        families_of(type("Config", (), {"model_type": "clip_vision_model"}))


def test_every_family_has_a_template_beside_plain() -> None:
    assert all(set(family.templates) - {"plain", "v0_plain"} for family in FAMILIES.values())


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen", "mpt"])
def test_block_and_linear_layers_are_named_as_they_are(kind: str) -> None:
    language = llava(kind).model.language_model
    family = families_of(language.config)[0]
    blocks = [module for module in language.modules() if type(module).__name__ == family.block]
    linears = [name for name, module in language.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(blocks) == 2
    assert {name.rsplit(".", 1)[-1] for name in linears} == set(family.linears)
    assert len(linears) == 2 * len(family.linears)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen", "mpt"])
def test_packed_equals_unpacked_in_every_family(kind: str) -> None:
    model = llava(kind)
    rng = np.random.default_rng(0)
    samples = [
        Encoded(input_ids=rng.integers(1, 60, length).astype(np.int32), labels=np.full(length, -100, np.int32))
        for length in (5, 1, 9)
    ]
    packed = collate_packed(samples)
    with torch.no_grad():
        alone = [model(torch.from_numpy(one.input_ids.astype(np.int64))[None]).logits[0] for one in samples]
        ids, positions = torch.from_numpy(packed.input_ids), torch.from_numpy(packed.position_ids)
        together = model(ids, position_ids=positions, use_cache=False).logits[0]
        seeing = model(ids, position_ids=positions, use_cache=False, attention_mask=torch.ones_like(ids)).logits[0]
    assert float((torch.cat(alone) - together).abs().max()) < 1e-5
    assert float((torch.cat(alone) - seeing).abs().max()) > 1e-3


def test_a_packed_row_of_mpt_may_be_longer_than_its_longest_sample() -> None:
    """Its positions end at 64 by configuration; three samples of 40 make a row of 120."""
    model = llava("mpt")
    rng = np.random.default_rng(1)
    samples = [
        Encoded(input_ids=rng.integers(1, 60, 40).astype(np.int32), labels=np.full(40, -100, np.int32))
        for _ in range(3)
    ]
    packed = collate_packed(samples)
    ids, positions = torch.from_numpy(packed.input_ids), torch.from_numpy(packed.position_ids)
    with torch.no_grad():
        alone = [model(torch.from_numpy(one.input_ids.astype(np.int64))[None]).logits[0] for one in samples]
        together = model(ids, position_ids=positions, use_cache=False).logits[0]
    assert float((torch.cat(alone) - together).abs().max()) < 1e-5
