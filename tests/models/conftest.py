"""Small tokenizers of the kinds that language models use, trained in a second on a made-up corpus."""

from __future__ import annotations

import random
from typing import Any

import pytest

WORDS = (
    "a an the cat dog horse sits stands on under beside table chair red blue green there is are two three what where "
    "colour of in picture image person holding umbrella street café naïve 你好 größer don't it's 3 12 1999 0.25"
).split()
MARKS = (
    "###",
    "USER:",
    "ASSISTANT:",
    "Human:",
    "Assistant:",
    "[INST]",
    "[/INST]",
    "\n",
    ".",
    ", ",
    "?",
    " (x) ",
    "\n\n",
)


def sentence(rng: random.Random, length: int) -> str:
    """Words, digits and rare characters with punctuation: what answers look like."""
    words = [rng.choice(WORDS) for _ in range(length)]
    return " ".join(words).capitalize() + rng.choice((".", "?", "", "!\n- one\n- two", " 42", " 🙂"))


def corpus(seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [rng.choice(MARKS).join(sentence(rng, rng.randint(1, 9)) for _ in range(4)) for _ in range(400)]


def _wrap(backend: Any, bos: str | None, eos: str, extra: list[str]) -> Any:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    if bos:
        template = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))], pair=f"{bos} $A {bos} $B"
        )
        old = backend.post_processor
        backend.post_processor = processors.Sequence([old, template]) if old is not None else template
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=eos, unk_token="<unk>", additional_special_tokens=extra
    )


def sentencepiece_like(image: bool) -> Any:
    """Llama's kind: word-start marks instead of spaces, bytes for what is unknown, <s> in front."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True)
    extra = ["<image>"] if image else []
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", "<s>", "</s>", *extra, *bytes_], limit_alphabet=60, show_progress=False
    )
    backend.train_from_iterator([word for text in corpus() for word in text.split(" ")], trainer)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrap(backend, "<s>", "</s>", extra)


def byte_level(image: bool, trim: bool, bos: str | None = None) -> Any:
    """GPT's kind (MPT, Qwen, Llama-3): bytes, spaces inside words, chat marks as special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    backend.decoder = decoders.ByteLevel()
    extra = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    extra += ["<start_of_turn>", "<end_of_turn>", *(["<image>"] if image else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["<|endoftext|>", "<unk>", "<|begin_of_text|>", "</s>", *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus(), trainer)
    return _wrap(backend, bos, "<|endoftext|>", extra)


TOKENIZERS = {
    "sentencepiece": lambda: sentencepiece_like(image=False),
    "sentencepiece-image": lambda: sentencepiece_like(image=True),
    "byte-level": lambda: byte_level(image=False, trim=True),
    "byte-level-image": lambda: byte_level(image=True, trim=False),
    "byte-level-bos": lambda: byte_level(image=True, trim=True, bos="<|begin_of_text|>"),
}


@pytest.fixture(scope="session", params=sorted(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()
