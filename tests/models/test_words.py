"""Tokenising by memory gives what the tokenizer gives, and is refused where it might not."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from llavaflow.models import spans, words
from llavaflow.models.labels import Encoded, encode
from llavaflow.models.templates import template

LETTERS = ["a", "cat", "sits", "don't", "12", "3.14", "café", "你好", "🙂", "x,y", "(see)", "\t", "ﬁ", "é", "_", "#"]
BLANKS = [" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", " \n", "\n ", "\n  ", "\t ", "\r\n", "", "\u00a0", "\u3000 "]


def messy(rng: random.Random, marks: list[str]) -> str:
    """Words with all sorts of blanks between, in front and behind, and special tokens anywhere."""
    parts = [rng.choice(BLANKS)]
    for _ in range(rng.randint(0, 25)):
        parts += [rng.choice(LETTERS), rng.choice(BLANKS)]
        if marks and rng.random() < 0.1:
            parts += [rng.choice(marks), rng.choice(BLANKS)]
    return "".join(parts)


def test_memory_equals_the_tokenizer(tokenizer: Any) -> None:
    backend = tokenizer.backend_tokenizer
    image = ("<image>", tokenizer.get_vocab().get("<image>", 30_000))
    memory = words.for_backend(backend, image)
    assert memory is not None
    rng = random.Random(0)
    marks = [token.content for token in backend.get_added_tokens_decoder().values()]
    texts = [messy(rng, marks) for _ in range(1500)]
    for text, spelled in zip(texts, memory.encode_batch(texts), strict=True):
        found = backend.encode(text, add_special_tokens=False)
        assert spelled.ids.tolist() == found.ids, text
        assert all(
            start <= own and end >= close for start, end, (own, close) in zip(*spelled[1:], found.offsets, strict=True)
        )
        assert spelled.end[-1] == len(text) if len(found.ids) else not text.strip()


def test_both_ways_give_the_same_labels(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    image = tokenizer.get_vocab().get("<image>", 30_000)
    conversations = []
    for _ in range(60):
        said = [(role, f"{messy(rng, [])}.") for _ in range(rng.randint(1, 3)) for role in ("human", "gpt")]
        conversations.append([("human", "<image>\n" + said[0][1]), *said[1:]])
    for name in ("v1", "qwen_2", "llava_v0"):
        results = []
        for limit, way in ((4000, words.for_backend), (4001, lambda *_: None)):
            monkeypatch.setattr(spans, "for_backend", way)
            form = {"template": template(name), "tokenizer": tokenizer, "image_token_id": image, "max_length": limit}
            results.append([encode(turns, image_tokens=[2], **form) for turns in conversations])
        for fast, plain in zip(*results, strict=True):
            assert isinstance(fast, Encoded) and isinstance(plain, Encoded)
            assert np.array_equal(fast.input_ids, plain.input_ids) and np.array_equal(fast.labels, plain.labels)


def test_a_full_memory_starts_anew(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = words.for_backend(tokenizer.backend_tokenizer, ("<image>", 30_000))
    assert memory is not None
    monkeypatch.setattr(words, "MOST_WORDS", 20)
    rng = random.Random(2)
    for _ in range(5):
        texts = [messy(rng, []) for _ in range(20)]
        got = [one.ids.tolist() for one in memory.encode_batch(texts)]
        assert got == [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def unsafe(kind: str) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {"▁": 0, "a": 1, "▁a": 2, "a▁": 3, "<unk>": 4}
    merges = [("▁", "a")] + ([("a", "▁")] if kind == "a token over a space" else [])
    if kind != "a token over a space":
        del vocabulary["a▁"]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    if kind == "another model":
        made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    if kind == "an unknown normalizer":
        made.normalizer = normalizers.Lowercase()
    if kind == "an unknown split":
        made.pre_tokenizer = pre_tokenizers.Split(Regex(r"a a"), "isolated")
    if kind == "a greedy special token":
        made.add_special_tokens([AddedToken("<s>", lstrip=True)])
    return made


@pytest.mark.parametrize(
    "kind",
    [
        "another model",
        "a token over a space",
        "an unknown normalizer",
        "an unknown split",
        "a greedy special token",
    ],
)
def test_a_tokenizer_that_words_would_change_is_left_alone(kind: str) -> None:
    assert words.for_backend(unsafe(kind), ("<image>", 9)) is None
    assert words.for_backend(unsafe("none"), ("<image>", 9)) is not None


@pytest.mark.parametrize("digits", [r"\p{N}", r"\p{N}{1,3}"])
def test_the_splits_of_llama_3_and_qwen_are_safe(digits: str) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    pattern = next(split for split in words._SPLITS if f"|{digits}|" in split)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rng = random.Random(3)
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([messy(rng, []) for _ in range(400)], trainer)
    memory = words.for_backend(backend, ("<image>", 9_999))
    assert memory is not None
    texts = [messy(rng, []) for _ in range(1500)]
    got = [one.ids.tolist() for one in memory.encode_batch(texts)]
    assert got == [found.ids for found in backend.encode_batch(texts, add_special_tokens=False)]
