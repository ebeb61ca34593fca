"""How fast conversations become labels, against the loop that upstream's lazy dataset runs per sample.

    pytest tests/bench/test_text_to_labels.py -m slow -s

The plain loop tokenises a conversation around its image, then every round and every instruction again to count what is
to be masked. It is first shown to give the same labels, then both are timed by processor time of one process (the best
of several turns), so that a busy machine does not decide.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llavaflow.models.labels import IGNORE, Encoded, Item, encode_many
from llavaflow.models.templates import place_images, template

SAMPLES = 1500
IMAGE_ID = 40_000
IMAGE_TOKENS = 576
SYLLABLES = "ba be bi bo da de di do ka ke ki ko la le li lo ma me mi mo na ne ni no ra re ri ro sa se ta te".split()


def vocabulary(rng: random.Random) -> list[str]:
    """Words of natural frequency: few short ones often, many long ones rarely."""
    return ["".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 4))) for _ in range(6000)]


def sentence(rng: random.Random, words: list[str], length: int) -> str:
    picked = [words[min(len(words) - 1, int(rng.paretovariate(0.7)) - 1)] for _ in range(length)]
    return " ".join(picked).capitalize() + rng.choice((".", "?", ", yes."))


def mixture(rng: random.Random, words: list[str]) -> list[list[tuple[str, str]]]:
    """Like mix665k: short answers in many rounds, long answers in few, the image at either end of the question."""
    conversations = []
    for _ in range(SAMPLES):
        short = rng.random() < 0.6
        turns: list[tuple[str, str]] = []
        for _ in range(rng.randint(3, 9) if short else rng.randint(1, 3)):
            tail = "\nAnswer the question using a single word or phrase." if short and not turns else ""
            turns.append(("human", sentence(rng, words, rng.randint(5, 12)) + tail))
            turns.append(("gpt", sentence(rng, words, rng.randint(1, 2) if short else rng.randint(30, 90))))
        question = turns[0][1]
        turns[0] = ("human", rng.choice((f"<image>\n{question}", f"{question}\n<image>")))
        conversations.append(turns)
    return conversations


def llama_like(texts: list[str]) -> Any:
    """Llama's kind of tokenizer: word-start marks, byte fallback, <s> in front."""
    from tokenizers import Tokenizer, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=specials, show_progress=False)
    backend.train_from_iterator((word for text in texts for word in text.split(" ")), trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def around_image(text: str, tokenizer: Any) -> list[int]:
    """Pieces between images tokenised one by one; only the first keeps its <s>."""
    ids: list[int] = []
    for place, piece in enumerate(text.split("<image>")):
        found = tokenizer(piece).input_ids
        ids += [IMAGE_ID, *found[1:]] if place else found
    return ids


def plain_labels(turns: list[tuple[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Count tokens round by round, as upstream does for `v1`: what comes before an answer is masked by its length."""
    form = template("v1")
    text = form.text([(role, place_images(said)) for role, said in turns])
    ids = around_image(text, tokenizer)
    labels = list(ids)
    labels[0] = IGNORE
    at = 1
    for spoken in text.split("</s>"):
        if not spoken:
            break
        instruction = spoken.split(" ASSISTANT: ")[0] + " ASSISTANT: "
        # <s> of the round stands for its </s>; <s> and the lone space of the instruction are not its own
        length, masked = len(around_image(spoken, tokenizer)), len(around_image(instruction, tokenizer)) - 2
        labels[at : at + masked] = [IGNORE] * masked
        at += length
    return ids, labels


def best_time(work: Callable[[], object], turns: int = 5) -> float:
    times = []
    for _ in range(turns):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.slow
def test_labels_are_made_eight_times_as_fast_as_by_the_plain_loop() -> None:
    rng = random.Random(0)
    words = vocabulary(rng)
    conversations = mixture(rng, words)
    tokenizer = llama_like([text for turns in conversations for _, text in turns])
    items = [Item(turns, [IMAGE_TOKENS]) for turns in conversations]

    def ours() -> list[Any]:
        return encode_many(
            items, template=template("v1"), tokenizer=tokenizer, image_token_id=IMAGE_ID, max_length=4096
        )

    def plain() -> list[tuple[list[int], list[int]]]:
        return [plain_labels(turns, tokenizer) for turns in conversations]

    for fast, (ids, labels) in zip(ours(), plain(), strict=True):
        assert isinstance(fast, Encoded)
        one_per_image = (fast.input_ids != IMAGE_ID) | (np.roll(fast.input_ids, 1) != IMAGE_ID)
        assert fast.input_ids[one_per_image].tolist() == ids
        assert fast.labels[one_per_image].tolist() == labels
    quick, slow = best_time(ours), best_time(plain, 2)
    print(f"\ntext to labels: {SAMPLES / quick:,.0f} samples/s, plain loop {SAMPLES / slow:,.0f}: {slow / quick:.1f} x")
    assert slow / quick >= 8
