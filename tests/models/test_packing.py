"""Plans: complete, the same for any number of ranks, balanced; rows: no sample sees or predicts another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llavaflow.infra.errors import InputError
from llavaflow.models.labels import IGNORE, Encoded
from llavaflow.models.packing import (
    Plan,
    block_mask,
    collate_packed,
    collate_padded,
    plan_epoch,
    shuffled,
)


def mixture(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Lengths like a visual instruction mixture: most with 576 image tokens, some pure text, a long tail."""
    rng = np.random.default_rng(seed)
    text = np.minimum(rng.lognormal(4.7, 0.8, count), 1400).astype(np.int64) + 45
    long_text = np.minimum(rng.lognormal(6.3, 0.7, count), 2000).astype(np.int64) + 45
    return np.where(rng.random(count) < 0.94, text + 576, long_text)


def plan(lengths: Any, **settings: Any) -> Plan:
    settings = {"global_batch": 128, "ranks": 8, "max_row": 8192, "seed": 0, "epoch": 0, **settings}
    return plan_epoch(lengths, **settings)


@pytest.mark.parametrize(("ranks", "max_row"), [(1, 2048), (2, 5000), (8, 4096), (8, 16384), (64, 4096)])
def test_every_sample_is_seen_once_and_no_row_is_too_long(ranks: int, max_row: int) -> None:
    lengths = mixture(1000)
    made = plan(lengths, ranks=ranks, max_row=max_row)
    seen = []
    for step in made.steps():
        dealt = np.concatenate([row for micro in step.rows for row in micro])
        assert sorted(dealt) == sorted(step.samples)
        assert all(len(micro) == ranks for micro in step.rows)
        assert max(int(lengths[row].sum()) for micro in step.rows for row in micro) <= max_row
        seen.extend(dealt.tolist())
    assert sorted(seen) == list(range(1000))


def test_a_step_holds_the_global_batch_and_the_last_what_is_left() -> None:
    made = plan(mixture(1000))
    assert [len(step.samples) for step in made.steps()] == [128] * 7 + [104]
    assert (len(made), made.last_batch) == (8, 104)
    assert len(plan(mixture(1000), drop_last=True)) == 7
    assert (len(plan([])), plan([]).last_batch) == (0, 0)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    lengths = mixture(600)
    orders = [
        [set(s.samples.tolist()) for s in plan(lengths, ranks=r, max_row=m).steps()] for r, m in [(1, 4096), (8, 9000)]
    ]
    assert orders[0] == orders[1]
    assert shuffled(600, 0, 0).tolist() == plan(lengths).order.tolist()
    assert len({tuple(shuffled(600, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_step_can_be_asked_for_out_of_turn() -> None:
    made = plan(mixture(1000))
    later = [step.samples.tolist() for step in made.steps(start=5)]
    assert later == [step.samples.tolist() for step in made.steps()][5:]
    assert [[row.tolist() for row in micro] for micro in made.step(6).rows] == [
        [row.tolist() for row in micro] for micro in plan(mixture(1000)).step(6).rows
    ]
    with pytest.raises(IndexError):
        made.step(8)


@pytest.mark.parametrize("max_row", [2048, 4096, 8192, 16384])
def test_rows_are_filled_to_98_percent(max_row: int) -> None:
    made = plan(mixture(20_000), max_row=max_row)
    sampled = range(0, len(made) - 1, 7)
    assert made.fill(sampled) >= 0.98
    padded = plan(mixture(20_000), deal="upstream", per_device=16)
    assert padded.fill(sampled) < 0.75


def test_fill_is_what_it_says() -> None:
    made = plan([10, 6, 4, 4], global_batch=4, ranks=2, max_row=100)
    assert sorted(sorted(np.array([10, 6, 4, 4])[row].tolist()) for row in made.step(0).rows[0]) in (
        [[4, 4, 6], [10]],
        [[4, 6], [4, 10]],
    )
    by_hand = [int(sum(made.lengths[row])) for row in made.step(0).rows[0]]
    assert made.fill() == pytest.approx(24 / (2 * max(by_hand)))
    padded = plan(
        [10, 6, 4, 4], global_batch=4, ranks=2, max_row=100, deal="upstream", per_device=2, order=np.arange(4)
    )
    assert padded.fill() == pytest.approx(24 / (2 * 20))


def test_upstreams_deal_is_the_order_cut_in_pieces() -> None:
    made = plan(mixture(64), global_batch=32, ranks=4, deal="upstream", per_device=4, order=np.arange(64))
    assert made.step(1).rows[1][2].tolist() == [56, 57, 58, 59]
    with pytest.raises(InputError, match="no multiple"):
        plan(mixture(64), global_batch=100, deal="upstream", per_device=16)


def test_fewer_samples_than_ranks_leave_rows_empty() -> None:
    made = plan([5, 6, 7], ranks=8)
    assert sorted(len(row) for row in made.step(0).rows[0]) == [0] * 5 + [1] * 3


@pytest.mark.parametrize(
    ("lengths", "settings", "match"),
    [
        ([10, 9000], {}, "sample 1 has 9000 tokens"),
        ([10, 0], {}, "sample 1 has length 0"),
        ([10], {"ranks": 0}, "at least 1"),
    ],
)
def test_impossible_plans_are_refused(lengths: list[int], settings: dict[str, int], match: str) -> None:
    with pytest.raises(InputError, match=match):
        plan(lengths, **settings)


def sample(length: int, seed: int) -> Encoded:
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 97, length).astype(np.int32)
    return Encoded(input_ids=ids, labels=np.where(rng.random(length) < 0.5, ids, IGNORE).astype(np.int32))


SAMPLES = [sample(length, length) for length in (7, 1, 12, 3, 20)]


def test_a_packed_row_restarts_at_every_sample() -> None:
    packed = collate_packed(SAMPLES[:3])
    assert packed.position_ids[0].tolist() == [*range(7), 0, *range(12)]
    assert packed.segment_ids[0].tolist() == [0] * 7 + [1] + [2] * 12
    assert (packed.cu_seqlens.tolist(), packed.max_length) == ([0, 7, 8, 20], 12)
    assert packed.input_ids.shape == packed.labels.shape == (1, 20)
    assert (packed.labels[0, [0, 7, 8]] == IGNORE).all()
    alone = sum(int((one.labels[1:] != IGNORE).sum()) for one in SAMPLES[:3])
    assert packed.supervised == alone


def test_padding_is_masked_by_length() -> None:
    padded = collate_padded(SAMPLES[:2], pad_token_id=int(SAMPLES[0].input_ids[0]))
    assert padded.attention_mask.tolist() == [[1] * 7, [1] + [0] * 6]
    assert (padded.labels[1, 1:] == IGNORE).all() and padded.labels[0].tolist() == SAMPLES[0].labels.tolist()


@pytest.fixture(scope="module")
def llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2)).eval()


def difference(llama: Any, **arguments: Any) -> float:
    """How far the packed row is from its samples one by one."""
    import torch

    packed = collate_packed(SAMPLES)
    with torch.no_grad():
        alone = [llama(torch.from_numpy(one.input_ids.astype(np.int64))[None]).logits[0] for one in SAMPLES]
        ids, positions = torch.from_numpy(packed.input_ids), torch.from_numpy(packed.position_ids)
        together = llama(ids, position_ids=positions, **arguments).logits[0]
    return float((torch.cat(alone) - together).abs().max())


def test_packed_equals_unpacked(llama: Any) -> None:
    import torch

    assert difference(llama, use_cache=False) < 1e-5
    assert (
        difference(
            llama, use_cache=False, attention_mask=torch.from_numpy(block_mask(collate_packed(SAMPLES).segment_ids))
        )
        < 1e-5
    )


def test_the_ways_in_which_samples_come_to_see_each_other_are_noticed(llama: Any) -> None:
    import torch

    ones = torch.ones(1, sum(len(one) for one in SAMPLES), dtype=torch.long)
    assert difference(llama, use_cache=False, attention_mask=ones) > 1e-3
    # transformers looks for packed samples only when there is no cache
    assert difference(llama, use_cache=True) > 1e-3
