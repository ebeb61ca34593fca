"""The tensors of a step: every sample once, in rows that cannot see each other, whatever the number of workers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llavaflow.models import llava
from llavaflow.models.labels import IGNORE
from llavaflow.models.llava import Design
from llavaflow.models.objective import Objective
from llavaflow.models.samplers import grouped_by_modality
from llavaflow.stages import _loop
from llavaflow.stages._batches import Order, Steps, loader
from llavaflow.stages._corpus import Corpus, Encoding, encode_corpus, rejected
from llavaflow.stages._job import Loss

_spec = importlib.util.spec_from_file_location("train_data", Path(__file__).with_name("train_data.py"))
assert _spec is not None and _spec.loader is not None
train_data = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(train_data)


@pytest.fixture(scope="module")
def toy(toy_foundation: Path) -> Any:
    made = llava.build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design())
    made.model.eval()
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("data")
    train_data.write(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(toy: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    cache = tmp_path_factory.mktemp("cache")
    encoding = Encoding(template="v1", masking="answers", max_length=256, image_rule=toy.image_rule)
    for rank in range(2):
        encode_corpus(data, cache, encoding, toy.tokenizer, toy.image_token_id, rank, 2)
    assert rejected(cache) == []
    return Corpus(cache)


def steps(corpus: Corpus, data: Path, toy: Any, rank: int = 0, **changes: Any) -> Steps:
    settings: dict[str, Any] = {
        "batching": "packed",
        "global_batch": 12,
        "seed": 1,
        "epochs": 2,
        "workers": 1,
        "row_tokens": 4096,
        "fold_tokens": None,
        "per_device": 3,
    }
    return Steps(corpus, data, toy.image_rule, Order(**settings | changes), rank, toy.tokenizer.pad_token_id)


LAYOUTS: dict[str, dict[str, Any]] = {
    "one-row": {},
    "short-rows": {"row_tokens": 256},
    "folded": {"fold_tokens": 300},
    "padded": {"batching": "padded"},
    "two-workers": {"workers": 2},
    "two-workers-folded": {"workers": 2, "fold_tokens": 256},
}


Gradients = dict[str, torch.Tensor]


def learned(
    corpus: Corpus, data: Path, toy: Any, layout: dict[str, Any], loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, Gradients, int]:
    """Loss and gradients of step 1 as the optimizer gets them, averaged over all workers, and supervised tokens."""
    objective, workers = Objective(toy.model), layout.get("workers", 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: workers)
    batches = [steps(corpus, data, toy, rank, **layout)[1] for rank in range(workers)]
    supervised = sum(sum(batch.supervised) for batch in batches)
    toy.model.zero_grad()
    total = 0.0
    for batch in batches:
        for micro, scale in zip(batch.micros, _loop._scales(batch, loss, supervised), strict=True):
            summed = objective(**micro)
            (summed * scale / workers).backward()
            total += float(summed.detach())
    parameters = toy.model.named_parameters()
    return total, {name: value.grad.clone() for name, value in parameters if value.grad is not None}, supervised


def apart(one: Gradients, other: Gradients) -> float:
    """The largest distance between two gradients of one parameter, against the largest number in any of them."""
    assert set(one) == set(other)
    scale = max(float(value.abs().max()) for value in one.values())
    return max(float((value - other[name]).abs().max()) for name, value in one.items()) / scale


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_layout_gives_the_loss_and_gradients_of_single_samples(
    corpus: Corpus, data: Path, toy: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = {"batching": "padded", "per_device": 1}
    loss, gradients, supervised = learned(corpus, data, toy, single, "token", monkeypatch)
    got, got_gradients, got_supervised = learned(corpus, data, toy, LAYOUTS[name], "token", monkeypatch)
    assert got_supervised == supervised
    assert got == pytest.approx(loss, rel=1e-5)
    assert len(gradients) > 50 and apart(gradients, got_gradients) < 1e-5


def test_upstreams_loss_is_the_mean_of_the_means_of_micro_batches(
    corpus: Corpus, data: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever computes them, and unlike the mean over all tokens, which weighs every token alike."""
    layout = {"batching": "padded", "per_device": 3}
    alone = learned(corpus, data, toy, layout, "micro-batch-mean", monkeypatch)[1]
    shared = learned(corpus, data, toy, layout | {"workers": 2}, "micro-batch-mean", monkeypatch)[1]
    assert apart(alone, shared) < 1e-5
    toy.model.zero_grad()
    micros = steps(corpus, data, toy, **layout)[1].micros
    means = [Objective(toy.model)(**micro) / (micro["labels"][:, 1:] != IGNORE).sum() for micro in micros]
    torch.stack(means).mean().backward()
    by_hand = {name: value.grad for name, value in toy.model.named_parameters() if value.grad is not None}
    assert apart(by_hand, alone) < 1e-5
    assert apart(learned(corpus, data, toy, layout, "token", monkeypatch)[1], alone) > 1e-2


def test_a_mask_that_lets_samples_see_each_other_is_noticed(corpus: Corpus, data: Path, toy: Any) -> None:
    micro = steps(corpus, data, toy)[1].micros[0]
    right = float(Objective(toy.model)(**micro).detach())
    positions = torch.arange(micro["position_ids"].shape[1])[None]
    wrong = float(Objective(toy.model)(**micro | {"position_ids": positions}).detach())
    assert abs(wrong - right) > 1e-4 * right


def test_order_depends_on_seed_and_epoch_alone(corpus: Corpus, data: Path, toy: Any) -> None:
    def seen(workers: int, seed: int = 1) -> list[list[int]]:
        made = [steps(corpus, data, toy, workers=workers, seed=seed).plans[epoch] for epoch in range(2)]
        return [sorted(plan.step(index).samples.tolist()) for plan in made for index in range(len(plan))]

    assert seen(1) == seen(2)
    assert seen(1) != seen(1, seed=2)
    first_epoch = [sample for samples in seen(1)[:4] for sample in samples]
    assert sorted(first_epoch) == list(range(len(corpus)))
    assert seen(1)[:4] != seen(1)[4:]


def test_grouped_batches_come_in_upstreams_order(corpus: Corpus, data: Path, toy: Any) -> None:
    """By the words of a sample, negative without an image, for the 8 devices that its scripts were written for."""
    records = [json.loads(line) for line in (data / "data.jsonl").read_text("utf-8").splitlines()]
    words = [sum(len(turn["value"].split()) for turn in record["conversations"]) for record in records]
    signed = [count if "image" in record else -count for record, count in zip(records, words, strict=True)]
    for workers in (1, 2):
        made = steps(corpus, data, toy, batching="grouped", global_batch=16, per_device=2, workers=workers)
        for epoch in range(2):
            expected = grouped_by_modality(signed, per_device=2, world=8, seed=1, epoch=epoch)
            assert made.plans[epoch].order.tolist() == expected.tolist()


def test_a_change_of_workers_in_the_middle_repeats_and_misses_no_sample(corpus: Corpus, data: Path, toy: Any) -> None:
    """One worker is killed and two go on at the step of its last state, or the other way round."""

    def dealt(workers: int, index: int) -> list[int]:
        made = steps(corpus, data, toy, workers=workers)
        epoch, within = divmod(index, len(made.plans[0]))
        rows = made.plans[epoch].step(within).rows
        return [sample for micro in rows for rank in range(workers) for sample in micro[rank].tolist()]

    total = len(steps(corpus, data, toy))
    for before, after in ((1, 2), (2, 1)):
        for killed_at in (1, 4, 5):
            seen = [sample for index in range(killed_at) for sample in dealt(before, index)]
            seen += [sample for index in range(killed_at, total) for sample in dealt(after, index)]
            assert sorted(seen) == sorted([*range(len(corpus)), *range(len(corpus))])


def test_loader_processes_change_nothing_and_start_anywhere(corpus: Corpus, data: Path, toy: Any) -> None:
    made = steps(corpus, data, toy)
    direct = [made[index] for index in range(3, len(made))]
    loaded = list(loader(made, 3, 2, pin_memory=False))
    assert len(loaded) == len(direct) == 5
    for one, two in zip(direct, loaded, strict=True):
        assert all(torch.equal(one.micros[0][name], two.micros[0][name]) for name in one.micros[0])


def test_a_broken_image_is_named_and_teaches_nothing(toy: Any, tmp_path: Path) -> None:
    train_data.write(tmp_path, samples=12, broken="s3")
    encoding = Encoding(template="v1", masking="answers", max_length=256, image_rule=toy.image_rule)
    encode_corpus(tmp_path, tmp_path / "cache", encoding, toy.tokenizer, toy.image_token_id, 0, 1)
    corpus = Corpus(tmp_path / "cache")
    whole = sum(int((corpus[index].encoded.labels != IGNORE).sum()) for index in range(12))
    lost = int((corpus[3].encoded.labels != IGNORE).sum())
    batch = steps(corpus, tmp_path, toy, epochs=1)[0]
    assert len(batch.broken) == 1 and "s3" in batch.broken[0] and "3.png" in batch.broken[0]
    assert sum(batch.supervised) == whole - lost
    assert np.isfinite(float(Objective(toy.model)(**batch.micros[0]).detach()))
