"""<im_start> and <im_end>: new rows are means, just they learn in stage 1, and everything counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from llavaflow.models import generate, llava, marks, parts
from llavaflow.models.chat_templates import jinja
from llavaflow.models.labels import IGNORE, Encoded, encode
from llavaflow.models.llava import Design, Llava
from llavaflow.models.objective import Objective
from llavaflow.models.templates import template

TURNS = [("human", "<image>\nWhat colour is it?"), ("gpt", "red")]


@pytest.fixture
def marked(toy_foundation: Path) -> Llava:
    design = Design(projector="linear", im_start_end=True)
    return llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), design, seed=3)


def encoded(model: Llava, name: str = "v1") -> Encoded:
    form = template(name, model.im_start_end)
    sample = encode(
        TURNS,
        template=form,
        tokenizer=model.tokenizer,
        image_token_id=model.image_token_id,
        image_tokens=[model.image_rule.tile_tokens],
        max_length=600,
    )
    assert isinstance(sample, Encoded)
    return sample


def test_new_rows_begin_as_the_mean_of_the_old(marked: Llava, toy_foundation: Path) -> None:
    from transformers import AutoModelForCausalLM

    old = AutoModelForCausalLM.from_pretrained(toy_foundation / "language")
    for now, before in (
        (marked.model.get_input_embeddings(), old.get_input_embeddings()),
        (marked.model.lm_head, old.lm_head),
    ):
        mean = before.weight.mean(dim=0)
        assert torch.allclose(now.weight[marked.mark_ids], mean.expand(2, -1), atol=1e-6)
        assert torch.equal(now.weight[: len(before.weight)], before.weight)


@pytest.mark.parametrize("name", ["v1", "plain", "llava_llama_2", "v0"])
def test_two_tokens_stand_round_the_image_and_teach_nothing(marked: Llava, toy_foundation: Path, name: str) -> None:
    bare = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(projector="linear"))
    sample, plain = encoded(marked, name), encoded(bare, name)
    ids = sample.input_ids.tolist()
    assert [number for number in ids if number not in marked.mark_ids] == plain.input_ids.tolist()
    start, end = (ids.index(mark) for mark in marked.mark_ids)
    assert end - start - 1 == marked.image_rule.tile_tokens
    assert set(ids[start + 1 : end]) == {marked.image_token_id}
    assert (sample.labels[start : end + 1] == IGNORE).all()
    assert sample.labels[sample.labels != IGNORE].tolist() == plain.labels[plain.labels != IGNORE].tolist()


def test_data_that_spells_a_mark_is_refused(marked: Llava) -> None:
    result = encode(
        [("human", "what is <im_start>?"), ("gpt", "a token")],
        template=template("v1", True),
        tokenizer=marked.tokenizer,
        image_token_id=marked.image_token_id,
        max_length=600,
    )
    assert not isinstance(result, Encoded) and result.reason == "reserved-string"


def learn(model: Llava) -> None:
    """One step of plain gradient descent on the sample."""
    sample = encoded(model)
    count = model.image_rule.tile_tokens
    ids, labels = (torch.from_numpy(part.astype(np.int64))[None] for part in (sample.input_ids, sample.labels))
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    loss = Objective(model.model)(ids, torch.arange(len(sample))[None], labels, pixels, torch.arange(count))
    loss.backward()
    with torch.no_grad():
        for parameter in model.model.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter -= 0.1 * parameter.grad


def test_in_stage_one_just_the_two_rows_learn_beside_the_projector(marked: Llava) -> None:
    marks.release(marked.model, marked.mark_ids)
    counts = {count.part: count for count in parts.set_trainable(marked, ["mm_projector"])}
    assert counts["mm_projector"].trainable == 32 * 48 + 48 + 2 * 48
    assert counts["language_model"].trainable == counts["vision_tower"].trainable == 0
    before = {name: value.clone() for name, value in marked.model.state_dict().items()}
    learn(marked)
    state = marked.model.state_dict()
    changed = {name for name, value in state.items() if not torch.equal(value, before[name])}
    table = "model.language_model.embed_tokens.weight"
    assert table not in changed and f"{table.removesuffix('weight')}marks" in changed
    whole = marks.folded(state, marked.mark_ids)
    assert set(whole) == set(before) - {f"{table.removesuffix('weight')}marks"}
    rows = (whole[table] != before[table]).any(dim=1).nonzero().flatten().tolist()
    assert rows == sorted(marked.mark_ids)


def test_released_rows_answer_as_folded_ones(marked: Llava, toy_foundation: Path) -> None:
    marks.release(marked.model, marked.mark_ids)
    parts.set_trainable(marked, ["mm_projector"])
    learn(marked)
    again = llava.build(
        str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(projector="linear", im_start_end=True)
    )
    again.model.load_state_dict(marks.folded(marked.model.state_dict(), marked.mark_ids))
    ids = torch.tensor([[1, *marked.mark_ids, 9]])
    assert torch.equal(marked.model(ids).logits, again.model(ids).logits)


def test_saved_it_says_so_and_plain_transformers_asks_the_same(marked: Llava, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    setattr(marked.model.config, llava.TEMPLATE_KEY, "v1")
    # a chat model comes with a template of its own, which is not what it was trained on here
    marked.tokenizer.chat_template = "{{ messages }}"
    llava.save(marked, tmp_path)
    again = llava.load(str(tmp_path))
    assert again.im_start_end and again.mark_ids == marked.mark_ids
    assert again.projector == marked.projector
    processor: Any = AutoProcessor.from_pretrained(tmp_path)
    assert processor.chat_template == processor.tokenizer.chat_template == jinja(template("v1", True))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert "USER: <im_start><image><im_end>\nWhat? ASSISTANT:" in text
    theirs = processor(images=Image.new("RGB", (30, 40)), text=text, return_tensors="np")["input_ids"][0]
    ours = generate.prompt_ids(again, "v1", [("human", "<image>\nWhat?")], [(30, 40)])
    assert theirs.tolist() == ours.tolist()
