"""How a worker assembles a model: what it refuses before any text is encoded, and what it lets learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.infra.machine import KINDS, Machine
from llavaflow.models import parts
from llavaflow.models.lora import Lora
from llavaflow.models.quantization import Quantization
from llavaflow.stages import _loop
from llavaflow.stages._job import Job
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.train import Train


def job(bench: Any, foundation: Path, language: Path, machine: Machine = KINDS["cpu"], **changes: Any) -> Job:
    """A finetune as its workers get it."""
    settings: dict[str, Any] = {
        "data": bench.given("data", lambda folder: None),
        "vision": Pretrained(path=foundation / "clip"),
        "language": Pretrained(path=language),
        "image_aspect": "square",
        "template": "v1",
        "trainable": ("mm_projector", "language_model"),
        "learning_rate": 1e-3,
        "global_batch": 4,
        "zero": 2,
        "precision": "float32",
    }
    stage = Train(**settings | changes)
    return stage.job(dataclasses.replace(bench.context(stage), machine=machine))


@pytest.mark.parametrize(
    ("family", "template", "said"),
    [
        ("vicuna", "chatml_direct", "is made for yi; this language model is .*vicuna"),
        ("yi", "v1", r"this language model is yi\. Templates for it: chatml_direct"),
        ("mpt", "v1", "this language model is mpt"),
    ],
)
def test_a_template_of_another_family_is_refused_before_a_word_is_encoded(
    bench: Any, toy_foundation: Path, toy_language: Callable[[str], Path], family: str, template: str, said: str
) -> None:
    made = job(bench, toy_foundation, toy_language(family), template=template)
    model = _loop._assemble(made)
    with pytest.raises(InputError, match=said):
        _loop._corpus(made, model, 0, 1)
    assert not (made.work / _loop.CACHE).exists()


@pytest.mark.parametrize(
    ("trainable", "lora", "learn"),
    [
        (("mm_projector",), None, {"mm_projector": 2}),
        (("mm_projector", "language_model"), None, {"mm_projector": 0, "language_model": 1}),
        (("mm_projector", "language_model"), Lora(r=2), {"mm_projector": 0, "language_model": 0}),
    ],
)
def test_marks_learn_by_themselves_where_the_language_model_does_not(
    bench: Any, toy_foundation: Path, trainable: tuple[str, ...], lora: Lora | None, learn: dict[str, int]
) -> None:
    """Two rows beside the projector in stage 1; with their table in stage 2; not at all beside adapters."""
    settings = {"projector": "linear", "im_start_end": True, "trainable": trainable, "lora": lora}
    made = job(bench, toy_foundation, toy_foundation / "language", **settings)
    model = _loop._assemble(made)
    parts.set_trainable(model, trainable, adapters=lora is not None)
    found = dict.fromkeys(learn, 0)
    for name, value in model.model.named_parameters():
        if value.requires_grad and "embed_tokens" in name:
            found[parts.part_of(name)] += 2 if name.endswith(".marks") else 1
    assert found == learn


def test_quantised_weights_are_not_divided_by_zero_3(bench: Any, toy_foundation: Path) -> None:
    settings = {"lora": Lora(quantization=Quantization()), "zero": 3}
    with pytest.raises(InputError, match="ZeRO-3 cannot divide quantised weights"):
        job(bench, toy_foundation, toy_foundation / "language", **settings)


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [
        (float("nan"), 1.0, "the loss is nan at step 7"),
        (float("inf"), 1.0, "the loss is inf at step 7"),
        (1.5, float("nan"), "the gradient is nan at step 7"),
        (1.5, float("inf"), "the gradient is inf at step 7"),
        (0.0, 0.0, "the loss is exactly 0 at step 7"),
    ],
)
def test_numbers_that_are_none_stop_the_run(loss: float, norm: float, said: str) -> None:
    with pytest.raises(StageFailed, match=said):
        _loop._check_numbers(loss, norm, 7)


def test_a_converged_run_goes_on() -> None:
    _loop._check_numbers(1e-6, 0.0, 7)


@pytest.mark.parametrize(
    ("machine", "settings", "said"),
    [
        (Machine(kind="cpu"), {"precision": "fp16"}, "fp16 needs a GPU"),
        (KINDS["v100-32g"], {"precision": "bf16"}, "v100-32g has no bf16. Set precision=fp16"),
        (KINDS["v100-32g"], {"precision": "fp16", "zero": 0}, "Set zero=1"),
        (KINDS["v100-32g"], {"precision": "fp16"}, None),
        (KINDS["a100-80g"], {"precision": "bf16"}, None),
    ],
)
def test_a_precision_that_the_machine_does_not_have_is_refused(
    bench: Any, toy_foundation: Path, machine: Machine, settings: dict[str, Any], said: str | None
) -> None:
    arguments = (bench, toy_foundation, toy_foundation / "language", machine)
    if said is None:
        assert job(*arguments, **settings).precision == settings["precision"]
        return
    with pytest.raises(InputError, match=said):
        job(*arguments, **settings)
