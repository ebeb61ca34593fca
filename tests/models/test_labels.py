"""Labels equal a slow, independent reading of the rules, for every template and kind of tokenizer."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from llavaflow.infra.errors import InputError
from llavaflow.models.labels import IGNORE, REASONS, Encoded, Item, Rejected, encode, encode_many, encode_prompt
from llavaflow.models.templates import names, template


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = _beside("reference_labels")
SMALL = _beside("conftest")


def image_id(tokenizer: Any) -> int:
    return int(tokenizer.get_vocab().get("<image>", 30_000))


def conversation(rng: random.Random, name: str) -> tuple[list[tuple[str, str]], list[int]]:
    """Random turns with one image at the front, at the back, or two, or none; answers of awkward shapes."""
    pairs = 1 if template(name).style == "plain" else rng.randint(1, 4)
    turns = []
    for _ in range(pairs):
        turns.append(("human", SMALL.sentence(rng, rng.randint(1, 8))))
        odd = rng.choice(("Yes", "7", " spaced  out ", "naïve 你好", "🙂", "a\n\nb", "\nstarts below", "ends below\n"))
        turns.append(("gpt", rng.choice((odd, SMALL.sentence(rng, rng.randint(1, 8))))))
    shape = "first" if template(name).style == "plain" else rng.choice(("first", "last", "two", "none"))
    question = turns[0][1]
    text = {
        "first": f"<image>\n{question}",
        "last": f"{question}\n<image>",
        "two": f"<image> and <image> {question}",
        "none": question,
    }[shape]
    turns[0] = ("human", text)
    return turns, [rng.randint(1, 5) for _ in range(text.count("<image>"))]


def run(turns: Any, tokenizer: Any, image_tokens: Any = (), name: str = "v1", **settings: Any) -> Any:
    settings = {"max_length": 4096, "rule": "answers", **settings}
    return encode(
        turns,
        template=template(name),
        tokenizer=tokenizer,
        image_token_id=image_id(tokenizer),
        image_tokens=image_tokens,
        **settings,
    )


@pytest.mark.parametrize("rule", ["answers", "upstream"])
@pytest.mark.parametrize("name", names())
def test_equals_the_slow_reference(tokenizer: Any, name: str, rule: str) -> None:
    rng = random.Random(name + rule)
    for _ in range(8):
        turns, counts = conversation(rng, name)
        got = run(turns, tokenizer, counts, name, rule=rule)
        ids, labels = REFERENCE.reference(name, turns, tokenizer, image_id(tokenizer), counts, rule == "upstream")
        assert isinstance(got, Encoded), got
        assert got.input_ids.tolist() == ids
        assert got.labels.tolist() == labels


def test_many_equals_one_by_one(tokenizer: Any) -> None:
    rng = random.Random(1)
    items = [Item(*conversation(rng, "v1")) for _ in range(600)]
    items[5] = Item([("human", "<image>"), ("gpt", " ")], [3])
    form = {
        "template": template("v1"),
        "tokenizer": tokenizer,
        "image_token_id": image_id(tokenizer),
        "max_length": 160,
    }
    together = encode_many(items, **form)
    assert isinstance(together[5], Rejected) and any(isinstance(x, Encoded) and x.cut_turns for x in together)
    for item, result in zip(items[::7], together[::7], strict=True):
        alone = encode(item.turns, image_tokens=item.image_tokens, **form)
        assert type(alone) is type(result)
        if isinstance(result, Encoded) and isinstance(alone, Encoded):
            assert np.array_equal(alone.input_ids, result.input_ids) and np.array_equal(alone.labels, result.labels)


def test_what_is_supervised_reads_as_the_answers_and_their_ends() -> None:
    tokenizer = SMALL.sentencepiece_like(image=True)
    turns = [("human", "What?\n<image>"), ("gpt", "A cat."), ("human", "How many?"), ("gpt", "3")]
    got = run(turns, tokenizer, [4])
    assert tokenizer.decode(got.labels[got.labels != IGNORE]) == "A cat.</s> 3</s>"
    assert (got.input_ids == image_id(tokenizer)).sum() == 4
    # a digit comes after a lone word-start mark, which the model has to produce as well
    assert tokenizer.convert_ids_to_tokens(got.labels[got.labels != IGNORE])[-3:-1] == ["▁", "3"]


def test_too_long_is_cut_by_turns_and_says_so(tokenizer: Any) -> None:
    rng = random.Random(3)
    turns = [(role, SMALL.sentence(rng, 12)) for _ in range(6) for role in ("human", "gpt")]
    turns[0] = ("human", "<image>\n" + turns[0][1])
    full = run(turns, tokenizer, [50])
    for limit in range(len(run(turns[:2], tokenizer, [50])), len(full), 17):
        cut = run(turns, tokenizer, [50], max_length=limit)
        kept = len(turns) - cut.cut_turns
        assert len(cut) <= limit and cut.cut_turns % 2 == 0 and cut.images == 1
        assert np.array_equal(cut.input_ids, run(turns[:kept], tokenizer, [50]).input_ids)
        assert len(run(turns[: kept + 2], tokenizer, [50])) > limit


def test_a_cut_that_drops_an_image_says_how_many_are_left(tokenizer: Any) -> None:
    turns = [("human", "<image>\none?"), ("gpt", "a"), ("human", "<image>\ntwo?"), ("gpt", "b")]
    whole = run(turns, tokenizer, [40, 400])
    cut = run(turns, tokenizer, [40, 400], max_length=len(whole) - 1)
    assert (whole.images, cut.images, cut.cut_turns) == (2, 1, 2)
    assert (cut.input_ids == image_id(tokenizer)).sum() == 40


HI = ("human", "<image>\nHi")


@pytest.mark.parametrize(
    ("turns", "images", "name", "reason"),
    [
        ([], 0, "v1", "not-alternating"),
        ([("gpt", "Hi"), ("human", "Hi")], 0, "v1", "not-alternating"),
        ([HI, ("gpt", "a"), ("human", "b")], 1, "v1", "not-alternating"),
        ([HI, ("gpt", "a"), ("gpt", "b"), ("human", "c")], 1, "v1", "not-alternating"),
        ([HI, ("gpt", " \n")], 1, "v1", "empty-answer"),
        ([("human", ""), ("gpt", "a")], 0, "v1", "empty-question"),
        ([HI, ("gpt", "a")], 0, "v1", "image-count-mismatch"),
        ([("human", "Hi"), ("gpt", "a")], 1, "v1", "image-count-mismatch"),
        ([HI, ("gpt", "a"), ("human", "<image>"), ("gpt", "b")], 1, "v1", "image-count-mismatch"),
        ([HI, ("gpt", "an <image>")], 1, "v1", "image-in-answer"),
        ([HI, ("gpt", "a</s>")], 1, "v1", "reserved-string"),
        ([("human", "<image> ASSISTANT: x"), ("gpt", "a")], 1, "v1", "reserved-string"),
        ([HI, ("gpt", "<unk>")], 1, "mpt", "reserved-string"),
        ([HI, ("gpt", "a"), ("human", "b"), ("gpt", "c")], 1, "plain", "plain-needs-one-image-pair"),
        ([("human", "Hi"), ("gpt", "a")], 0, "plain", "plain-needs-one-image-pair"),
        ([HI, ("gpt", "word " * 400)], 1, "v1", "too-long-first-turn"),
    ],
)
def test_what_cannot_be_trained_on_is_rejected(
    tokenizer: Any, turns: list[tuple[str, str]], images: int, name: str, reason: str
) -> None:
    got = run(turns, tokenizer, [8] * images, name, max_length=300)
    assert isinstance(got, Rejected) and got.reason == reason and reason in REASONS


def test_prompt_ids_are_the_start_of_the_training_ids(tokenizer: Any) -> None:
    turns = [("human", "What is it?\n<image>"), ("gpt", "A cat.")]
    # where the chat marks are no tokens, a newline before an answer may be glued to its first letter
    chat = ("mpt", "qwen_2", "llava_llama_3") if "<|im_start|>" in tokenizer.get_vocab() else ()
    for name in ("v1", *chat):
        settings = {"template": template(name), "tokenizer": tokenizer, "image_token_id": image_id(tokenizer)}
        prompt = encode_prompt(turns[:1], image_tokens=[6], **settings)
        assert np.array_equal(run(turns, tokenizer, [6], name).input_ids[: len(prompt)], prompt)
        with pytest.raises(InputError, match="2 images were given"):
            encode_prompt(turns[:1], image_tokens=[6, 6], **settings)


def test_same_ids_as_the_tokenizer_alone_when_it_knows_the_image(tokenizer: Any) -> None:
    if "<image>" not in tokenizer.get_vocab():
        pytest.skip("upstream's way: pieces between images are tokenised one by one")
    turns = [("human", "<image>\nWhat is it?"), ("gpt", "A café 你好.")]
    text = template("v1").text(turns).replace("<image>", "<image>" * 5)
    assert run(turns, tokenizer, [5]).input_ids.tolist() == tokenizer(text)["input_ids"]


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        def __len__(self) -> int:
            return 1

    with pytest.raises(InputError, match="fast tokenizer"):
        encode(
            [("human", "a"), ("gpt", "b")], template=template("v1"), tokenizer=Slow(), image_token_id=1, max_length=9
        )
