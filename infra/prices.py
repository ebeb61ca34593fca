"""Prices: what an hour of a GPU, a million tokens and a stored gigabyte cost, in one table and of one month.

What is not in the table has no price here, and a cost that is not known is null in a plan. Prices of your own: the
fields `input_usd` and `output_usd` of a stage that asks, and `usd_per_gpu_hour` in a machine's TOML file.
"""

from __future__ import annotations

import re

AS_OF = "March 2026"

# USD per GPU and hour: RunPod secure cloud (deploybase.ai/articles/runpod-gpu-pricing)
GPU_HOUR = {"a100-80g": 1.39, "h100": 2.69, "h200": 3.59, "b200": 5.98, "rtx3090": 0.22}

# USD per million tokens in and out: OpenAI's list (deploybase.ai/articles/openai-pricing); gpt-4 and gpt-4-turbo as
# they were when they were last listed
TOKENS = {
    "gpt-4": (30.0, 60.0),
    "gpt-4-turbo": (10.0, 30.0),
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-mini": (0.15, 0.6),
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-mini": (0.4, 1.6),
    "gpt-4.1-nano": (0.1, 0.4),
    "gpt-5": (1.25, 10.0),
    "gpt-5-mini": (0.25, 2.0),
    "gpt-5-nano": (0.05, 0.4),
    "gpt-3.5-turbo": (0.5, 1.5),
}
# what the Batch API takes of the price, for an answer within a day
BATCH_SHARE = 0.5

# USD per GB and month: S3 Standard, first 50 TB, us-east-1
STORED_GB_MONTH = 0.023

_DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{4})$")


def tokens_usd(model: str) -> tuple[float, float] | None:
    """USD per million tokens in and out; a dated snapshot (gpt-4-0314) costs what its model costs."""
    return TOKENS.get(model) or TOKENS.get(_DATED.sub("", model))
