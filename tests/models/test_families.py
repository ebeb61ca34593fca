"""Every form of model learns a step of each stage, and answers in plain transformers, without this project, as here.

Random weights, one picture, one question. What a checkpoint needs beyond transformers travels inside it (`auto_map`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llavaflow.models import generate, llava, marks, parts
from llavaflow.models.images import layout, transform
from llavaflow.models.labels import Encoded, encode
from llavaflow.models.language import check_template
from llavaflow.models.llava import Design, Llava
from llavaflow.models.objective import Objective
from llavaflow.models.templates import template

WORDS = 6
PINPOINTS = ((28, 56), (56, 28), (56, 56))
TURNS = [("human", "<image>\nWhat colour is it?"), ("gpt", "red")]


@dataclass(frozen=True)
class Kind:
    """A family with the template it is trained on, joined in some way."""

    family: str
    template: str
    design: Design = Design()
    vision: str = "clip"


KINDS = {
    "vicuna-linear": Kind("vicuna", "v1", Design(projector="linear", image_aspect="square")),
    "vicuna-marks": Kind("vicuna", "v0", Design(projector="linear", image_aspect="square", im_start_end=True)),
    "vicuna-deep": Kind("vicuna", "v1", Design(projector="mlp3x_gelu")),
    "vicuna-deep-tiles": Kind(
        "vicuna", "v1", Design(projector="mlp3x_gelu", image_aspect="anyres", pinpoints=PINPOINTS)
    ),
    "llama-2": Kind("llama-2", "llava_llama_2", Design(projector="linear", image_aspect="square")),
    "mistral-tiles": Kind("mistral", "mistral_instruct", Design(image_aspect="anyres", pinpoints=PINPOINTS)),
    "yi-tiles": Kind("yi", "chatml_direct", Design(image_aspect="anyres", pinpoints=PINPOINTS)),
    "llama-3-tiles": Kind("llama-3", "llava_llama_3", Design(image_aspect="anyres", pinpoints=PINPOINTS)),
    "qwen-tiles": Kind("qwen", "qwen_1_5", Design(image_aspect="anyres", pinpoints=PINPOINTS)),
    "mpt-marks": Kind("mpt", "mpt", Design(projector="linear", image_aspect="square", im_start_end=True)),
    "conv": Kind("vicuna", "v1", Design(select_layer=-1, image_size_px=128, added_stage=(1, 32)), vision="convnext"),
}
# one of each class that needs code of its own, and of each that does not
QUICK = ("vicuna-marks", "vicuna-deep", "vicuna-deep-tiles", "mpt-marks", "conv")

PLAIN = """
import sys, torch
sys.modules["llavaflow"] = None
from transformers import AutoModelForImageTextToText, AutoProcessor
from PIL import Image
for name in sys.argv[1:]:
    model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
    content = [{"type": "image"}, {"type": "text", "text": "What colour is it?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    bos = "<|begin_of_text|>"
    own = {"add_special_tokens": False} if text.startswith(bos) else {}
    inputs = processor(images=Image.open(name + ".png"), text=text, return_tensors="pt", **own)
    words = model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1]:]
    print(name, *words.tolist())
"""


def picture() -> Image.Image:
    """Twice as wide as high: transformers' tiles and ours agree about it."""
    rng = np.random.default_rng(5)
    return Image.fromarray(rng.integers(0, 255, (28, 56, 3), np.uint8))


def joined(kind: Kind, toy_foundation: Path, toy_language: Callable[[str], Path]) -> Llava:
    made = llava.build(str(toy_foundation / kind.vision), str(toy_language(kind.family)), kind.design, seed=2)
    check_template(template(kind.template), made.model.config, made.tokenizer)
    setattr(made.model.config, llava.TEMPLATE_KEY, kind.template)
    return made


def learn(model: Llava, trainable: list[str], name: str) -> float:
    """One step of gradient descent on one sample, as a stage with these parts would take it."""
    if model.im_start_end and "language_model" not in trainable:
        marks.release(model.model, model.mark_ids)
    parts.set_trainable(model, trainable)
    image, rule = picture(), model.image_rule
    place = layout(rule, *image.size)
    sample = encode(
        TURNS,
        template=template(name, model.im_start_end),
        tokenizer=model.tokenizer,
        image_token_id=model.image_token_id,
        image_tokens=[len(place)],
        max_length=600,
    )
    assert isinstance(sample, Encoded)
    ids, labels = (torch.from_numpy(part.astype(np.int64))[None] for part in (sample.input_ids, sample.labels))
    pixels = torch.from_numpy(transform(rule, image))
    before = parts.checksums(model.model.state_dict().items())
    loss = Objective(model.model.train())(ids, torch.arange(len(sample))[None], labels, pixels, torch.from_numpy(place))
    loss.backward()
    trained = {name for name, value in model.model.named_parameters(remove_duplicate=False) if value.requires_grad}
    with torch.no_grad():
        for parameter in model.model.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
            parameter.grad = None
    changed = parts.check_changes(before, parts.checksums(model.model.state_dict().items()), trained)
    assert all(changed[part] for part in trainable)
    return float(loss.detach())


def trained(kind: Kind, toy_foundation: Path, toy_language: Callable[[str], Path]) -> Llava:
    """A model after a step of stage 1 and, from its projector, a step of stage 2."""
    model = joined(kind, toy_foundation, toy_language)
    learn(model, ["mm_projector"], "plain")
    state = marks.folded(model.model.state_dict(), model.mark_ids)
    second = joined(kind, toy_foundation, toy_language)
    second.model.load_state_dict(state)
    learn(second, ["mm_projector", "language_model"], kind.template)
    return second


def words_of(model: Llava, name: str) -> list[int]:
    image = picture()
    ids = generate.prompt_ids(model, name, TURNS[:1], [image.size])
    asked = generate.Question(ids, generate.pixels(model, image), image.size)
    return next(iter(generate._generate(model, [asked], [model.tokenizer.eos_token_id], WORDS)))


def check(names: tuple[str, ...], toy_foundation: Path, toy_language: Callable[[str], Path], folder: Path) -> None:
    expected = {}
    for name in names:
        model = trained(KINDS[name], toy_foundation, toy_language)
        expected[name] = words_of(model, KINDS[name].template)
        llava.save(model, folder / name)
        again = llava.load(str(folder / name))
        assert (again.image_rule, again.projector) == (model.image_rule, model.projector)
        assert llava.as_designed(again, KINDS[name].design, name) is again
        assert words_of(again, KINDS[name].template) == expected[name]
        picture().save(folder / f"{name}.png")
    home = {**os.environ, "HF_HOME": str(folder / "hub")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, *names], cwd=folder, env=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = {line.split()[0]: [int(word) for word in line.split()[1:]] for line in done.stdout.splitlines()}
    assert answers == expected


def test_what_needs_code_of_its_own_carries_it(
    toy_foundation: Path, toy_language: Callable[[str], Path], tmp_path: Path
) -> None:
    check(QUICK, toy_foundation, toy_language, tmp_path)


@pytest.mark.slow
def test_every_family_learns_and_answers_the_same(
    toy_foundation: Path, toy_language: Callable[[str], Path], tmp_path: Path
) -> None:
    check(tuple(name for name in KINDS if name not in QUICK), toy_foundation, toy_language, tmp_path)
