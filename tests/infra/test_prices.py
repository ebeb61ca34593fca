"""The one table of prices: of kinds that exist, in sensible order, and a snapshot costs what its model costs."""

from __future__ import annotations

from llavaflow.infra.machine import KINDS
from llavaflow.infra.prices import BATCH_SHARE, GPU_HOUR, TOKENS, tokens_usd


def test_every_price_of_a_gpu_belongs_to_a_kind_and_is_used() -> None:
    assert set(GPU_HOUR) <= set(KINDS)
    assert all(KINDS[kind].usd_per_gpu_hour == usd for kind, usd in GPU_HOUR.items())


def test_answers_cost_more_than_questions_and_a_batch_half() -> None:
    assert all(0 < asked < answered for asked, answered in TOKENS.values()) and BATCH_SHARE == 0.5


def test_a_dated_snapshot_costs_what_its_model_costs() -> None:
    assert tokens_usd("gpt-4-0314") == tokens_usd("gpt-4") == (30.0, 60.0)
    assert tokens_usd("gpt-4o-2024-08-06") == tokens_usd("gpt-4o")
    assert tokens_usd("somebody-elses") is None
