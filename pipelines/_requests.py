"""What a synthesis stage will ask and pay: requests, tokens and money, from its prompts and the prices it states.

The few-shot examples inside a prompt are of the kind that is asked for, so their mean lengths stand for the question's
context and for the answer. A token is counted as four characters of English.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llavaflow.stages._tasks import KINDS, prompts
from llavaflow.stages._teacher import MODEL
from llavaflow.stages.synthesize import Synthesize

CHARACTERS_PER_TOKEN = 4.0
BATCH_DISCOUNT = 0.5


@dataclass(frozen=True, kw_only=True)
class Requests:
    """`usd` is None where the stage states no price for a paid model."""

    requests: int
    input_tokens: int
    output_tokens: int
    usd: float | None


def estimate_requests(stage: Synthesize) -> Requests | None:
    """The requests of a synthesis stage; None while its counts depend on data that is not known."""
    counts = {kind: getattr(stage, kind) for kind in KINDS}
    if any(count is None for count in counts.values()):
        return None
    lengths = {kind: _tokens(prompts()[kind]) for kind in KINDS}
    sent = round(sum(counts[kind] * lengths[kind][0] for kind in KINDS))
    received = round(sum(counts[kind] * min(lengths[kind][1], stage.max_tokens) for kind in KINDS))
    return Requests(
        requests=sum(counts.values()), input_tokens=sent, output_tokens=received, usd=_usd(stage, sent, received)
    )


def _tokens(prompt: Mapping[str, Any]) -> tuple[float, float]:
    """Tokens of a request and of its answer."""
    contexts, answers = [[len(shot[part]) for shot in prompt["shots"]] for part in ("context", "answer")]
    context, answer = sum(contexts) / len(contexts), sum(answers) / len(answers)
    sent = len(prompt["system"]) + sum(contexts) + sum(answers) + context
    return sent / CHARACTERS_PER_TOKEN, answer / CHARACTERS_PER_TOKEN


def _usd(stage: Synthesize, sent: int, received: int) -> float | None:
    if stage.model == MODEL:
        return 0.0
    if not (stage.input_usd or stage.output_usd):
        return None
    full = (sent * stage.input_usd + received * stage.output_usd) / 1e6
    return round(full * (BATCH_DISCOUNT if stage.batch else 1.0), 2)
