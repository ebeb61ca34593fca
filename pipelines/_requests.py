"""What a stage will ask a paid service and what it will pay: requests, tokens and money.

The few-shot examples inside a synthesis prompt are of the kind that is asked for, so their mean lengths stand for the
question's context and for the answer; reviews are as long as those published. A token is counted as four characters of
English. Prices are those that the stage states, or else the dated table of `infra/prices.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llavaflow.infra.prices import BATCH_SHARE
from llavaflow.stages._judging import Judging
from llavaflow.stages._ledger import Price
from llavaflow.stages._local_judge import NAME as LOCAL_JUDGE
from llavaflow.stages._stage import Stage
from llavaflow.stages._tasks import KINDS, prompts
from llavaflow.stages._teacher import MODEL
from llavaflow.stages.evaluate import Evaluate
from llavaflow.stages.judge import Judge
from llavaflow.stages.synthesize import Synthesize

CHARACTERS_PER_TOKEN = 4.0
# questions, and tokens in and out of one review: means of the reviews that were published with LLaVA-1.5
REVIEWED = {"llava-bench-coco": (90, 600, 125), "llava-bench-wild": (60, 500, 125), "mmvet": (218, 760, 5)}


@dataclass(frozen=True, kw_only=True)
class Requests:
    """`usd` is None where nobody knows the price of a paid model; `batch`: by the Batch API, for less."""

    requests: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    batch: bool = False

    @property
    def told(self) -> str:
        """What the other way to ask would cost."""
        if not self.usd:
            return ""
        if self.batch:
            return f"batch price; {self.usd / BATCH_SHARE:,.2f} USD with batch=false"
        return f"{self.usd * BATCH_SHARE:,.2f} USD with batch=true"


def estimate_requests(stage: Stage) -> Requests | None:
    """The requests of a stage; None where it asks nobody, or while its counts depend on data that is not known."""
    if isinstance(stage, Synthesize):
        return _synthesis(stage)
    review = stage.review if isinstance(stage, (Evaluate, Judge)) else None
    return _reviews(review) if review is not None else None


def _synthesis(stage: Synthesize) -> Requests | None:
    counts = {kind: getattr(stage, kind) for kind in KINDS}
    if any(count is None for count in counts.values()):
        return None
    lengths = {kind: _tokens(prompts()[kind]) for kind in KINDS}
    sent = round(sum(counts[kind] * lengths[kind][0] for kind in KINDS))
    received = round(sum(counts[kind] * min(lengths[kind][1], stage.max_tokens) for kind in KINDS))
    usd = 0.0 if stage.model == MODEL else _usd(stage, sent, received)
    return Requests(
        requests=sum(counts.values()), input_tokens=sent, output_tokens=received, usd=usd, batch=stage.batch
    )


def _reviews(review: Judging) -> Requests | None:
    if not {*review.benchmarks} <= {*REVIEWED}:
        return None
    asked = [(review.runs * n, sent, received) for n, sent, received in map(REVIEWED.__getitem__, review.benchmarks)]
    sent = sum(count * tokens for count, tokens, _ in asked)
    received = sum(count * tokens for count, _, tokens in asked)
    usd = 0.0 if review.model == LOCAL_JUDGE else _usd(review, sent, received)
    return Requests(
        requests=sum(count for count, _, _ in asked),
        input_tokens=sent,
        output_tokens=received,
        usd=usd,
        batch=review.batch,
    )


def _tokens(prompt: Mapping[str, Any]) -> tuple[float, float]:
    """Tokens of a request and of its answer."""
    contexts, answers = [[len(shot[part]) for shot in prompt["shots"]] for part in ("context", "answer")]
    context, answer = sum(contexts) / len(contexts), sum(answers) / len(answers)
    sent = len(prompt["system"]) + sum(contexts) + sum(answers) + context
    return sent / CHARACTERS_PER_TOKEN, answer / CHARACTERS_PER_TOKEN


def _usd(asker: Synthesize | Judging, sent: int, received: int) -> float | None:
    price = Price.of_model(asker.model, asker.input_usd, asker.output_usd)
    if price == Price():
        return None
    return round(price.of(sent, received) * (BATCH_SHARE if asker.batch else 1.0), 2)
