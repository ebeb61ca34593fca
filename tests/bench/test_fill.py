"""How full the rows are: packing against upstream's grouping by modality and length, on a mixture's lengths.

pytest tests/bench/test_fill.py -m slow -s
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from llavaflow.models.packing import Plan, plan_epoch
from llavaflow.models.samplers import grouped_by_modality

SAMPLES, RANKS, PER_DEVICE, GLOBAL_BATCH = 20_000, 8, 16, 128


@pytest.mark.slow
def test_packing_against_grouping() -> None:
    rng = np.random.default_rng(0)
    shown = rng.random(SAMPLES) < 624_610 / 665_298
    text = np.where(shown, rng.lognormal(5.0, 0.7, SAMPLES), rng.lognormal(6.5, 0.7, SAMPLES)).astype(np.int64) + 40
    lengths = np.minimum(text + 576 * shown, 2048)
    grouped = grouped_by_modality(
        np.where(shown, text, -text).tolist(), per_device=PER_DEVICE, world=RANKS, seed=0, epoch=0
    )

    def plan(max_row: int, **settings: Any) -> Plan:
        return plan_epoch(lengths, global_batch=GLOBAL_BATCH, ranks=RANKS, max_row=max_row, seed=0, epoch=0, **settings)

    print()
    for max_row in (2048, 4096, 8192, 16384):
        start = time.process_time()
        made = plan(max_row)
        fill = made.fill()
        spent = (time.process_time() - start) / len(made) * 1e3
        print(f"packed, rows up to {max_row:>5} tokens         {fill:.4f}   {spent:.1f} ms per step")
        assert fill > 0.98
    upstream = {"deal": "upstream", "per_device": PER_DEVICE}
    by_group, at_random = plan(2048, **upstream, order=grouped).fill(), plan(2048, **upstream).fill()
    print(f"padded, grouped by modality and length   {by_group:.4f}")
    print(f"padded, random order                     {at_random:.4f}")
    assert max(by_group, at_random) < 0.8
