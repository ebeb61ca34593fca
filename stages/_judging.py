"""Reviews by a judge, a language model over the OpenAI protocol (LLaVA-Bench, MM-Vet): many at once, run by run.

Requests go through the chat client and its ledger, so a finished one is never paid twice, whenever the run is killed,
and the Batch API is a setting. A reply without scores and a call that fails are asked again, then left out and
counted. Any OpenAI-compatible service will do (`OPENAI_BASE_URL`); the local judge answers here, under its own name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llavaflow.datasets.benchmarks._benchmark import Answer, Benchmark, Options, Pair, Prompt, Result
from llavaflow.datasets.benchmarks._reviews import review_runs, write_reviews
from llavaflow.datasets.benchmarks.mmvet import grade_runs, write_grades
from llavaflow.infra.artifact import Json
from llavaflow.infra.context import Budget
from llavaflow.infra.errors import InputError
from llavaflow.stages._chat import NO_KEY, Chat, Endpoint, service_of_environment
from llavaflow.stages._chat_batch import BatchChat
from llavaflow.stages._ledger import Price, Request, RequestLedger
from llavaflow.stages._local_judge import NAME as LOCAL
from llavaflow.stages._local_judge import TITLE, LocalJudge

# upstream's rule for the benchmark, and what its review files write before a category
RULES = {"llava-bench-coco": ("coco", ""), "llava-bench-wild": ("wild", "llava_bench_")}
CATEGORIES = ("conv", "detail", "complex")
AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Which open benchmarks are reviewed, by which model, and how often: runs give a mean and a spread.

    batch: the Batch API, half the price within a day. input_usd, output_usd: a million tokens, for the
    budget; 0: the price of infra/prices.py.
    """

    benchmarks: tuple[str, ...] = ("llava-bench-coco",)
    model: str = LOCAL
    runs: int = 1
    batch: bool = False
    input_usd: float = 0.0
    output_usd: float = 0.0


class Reviewer:
    """A judge behind the chat client, and what it took. The same prompt is another draw in another run or attempt."""

    def __init__(self, judging: Judging, endpoint: Endpoint, title: str, ledger: RequestLedger) -> None:
        self.judging, self.title, self.ledger = judging, title, ledger
        self._endpoint = endpoint
        self._asked: list[Request] = []

    def __call__(self, prompts: Sequence[Prompt]) -> list[str]:
        requests = [_request(self.judging.model, prompt) for prompt in prompts]
        self._settle(requests)
        replies = [self.ledger.replies.get(request.id) for request in requests]
        return ["" if reply is None else reply.text for reply in replies]

    def _settle(self, requests: Sequence[Request]) -> None:
        self._asked += requests
        if all(self.ledger.settled(request) for request in requests) and not self.ledger.open_batches:
            return
        if self.judging.batch:
            BatchChat(self._endpoint, self.ledger).ask_all(requests, lambda: None)
        else:
            Chat(self._endpoint, self.ledger, skip_failing=True).ask_all(requests, AT_ONCE, lambda: None)

    def told(self) -> dict[str, Json]:
        """Who judged, when and for what; `answered_by` is the model that the service says it was."""
        replies = [self.ledger.replies[item.id] for item in self._asked if item.id in self.ledger.replies]
        dates = sorted({date for item in self._asked if (date := self.ledger.dates.get(item.id))})
        return {
            "model": self.judging.model,
            "title": self.title,
            "answered_by": sorted({reply.model for reply in replies if reply.model}),
            # of the judging, which a later scoring of the same ledger does not change
            "date": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "",
            "runs": self.judging.runs,
            "requests": len({item.id for item in self._asked}),
            "tokens": self.ledger.tokens,
            "usd": round(self.ledger.usd, 4),
        }


def _request(model: str, prompt: Prompt) -> Request:
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    messages.append({"role": "user", "content": prompt.text})
    body = {
        "model": model, "messages": messages, "temperature": prompt.temperature, "max_tokens": prompt.max_tokens,
    }  # fmt: skip
    return Request(body, draw=f"{prompt.run}/{prompt.attempt}" if prompt.run or prompt.attempt else "")


@contextmanager
def open_reviewer(judging: Judging, ledger: Path, budget: Budget | None = None) -> Iterator[Reviewer]:
    """The judge by name, with its ledger: the local one on loopback, or the service of the environment.

    Raises InputError when no service is known, or when money is limited and its price is not.
    """
    budget = budget or Budget()
    price = Price.of_model(judging.model, judging.input_usd, judging.output_usd)
    with ExitStack() as stack:
        if judging.model == LOCAL:
            endpoint, title = Endpoint(base_url=stack.enter_context(LocalJudge()).base_url, api_key=NO_KEY), TITLE
        else:
            endpoint, title = service_of_environment(judging.model, LOCAL)
            price.check(budget, judging.model)
        requests = stack.enter_context(RequestLedger(ledger, price=price, budget=budget))
        yield Reviewer(judging, endpoint, title, requests)


def write_reviewed(benchmark: Benchmark, pairs: Sequence[Pair], reviewer: Reviewer, out: Path) -> tuple[Path, ...]:
    """Ask in all runs and write them in the authors' form: LLaVA's review lines per run, or MM-Vet's grade JSON.

    Raises InputError for a benchmark that no judge reviews, and for gold without what a review needs.
    """
    if not benchmark.judged:
        raise InputError(f"{benchmark.name} is scored by its rule and needs no judge: {benchmark.rule}")
    out.mkdir(parents=True, exist_ok=True)
    judging = reviewer.judging
    if benchmark.name == "mmvet":
        write_grades(grade_runs(pairs, reviewer, judging.runs), pairs, judging.model, path := out / "mmvet.json")
        return (path,)
    rule, prefix = RULES[benchmark.name]
    runs = review_runs(pairs, rule, reviewer, judging.runs)
    paths = tuple(out / f"{benchmark.name}.{number}.jsonl" for number in range(len(runs)))
    for reviews, path in zip(runs, paths, strict=True):
        write_reviews(reviews, pairs, path, prefix)
    return paths


def score_judged(
    benchmark: Benchmark, given: Sequence[Answer], gold: Path, options: Options, judging: Judging, answers: Path
) -> tuple[Result, dict[str, Json]]:
    """Score an answer file with a judge; ledger and reviews stay beside it, and what is there is not asked again."""
    joined = benchmark.join(given, gold, options)
    with open_reviewer(judging, answers.with_name(f"{answers.name}.judge.jsonl")) as reviewer:
        if benchmark.judged and not options.reviews:
            out = answers.with_name(f"{answers.name}.reviews")
            options = replace(options, reviews=write_reviewed(benchmark, joined.pairs, reviewer, out))
        found = benchmark.result(joined.pairs, options, reviewer, notes=joined.notes, unknown_ids=joined.unknown)
        return found, reviewer.told()


def judged_fact(result: Result, told: Mapping[str, Json]) -> dict[str, Json]:
    """A judged score as one row of facts: what it is, over what, by whom and when."""
    relative = {name: found["relative"] for name in CATEGORIES if (found := result.metrics.get(name))}
    return {
        "score": round(result.score, 2), **relative, "n": result.n, "failed": result.metrics["failed"],
        "runs": told["runs"], "spread": round(result.metrics["spread"], 2), "judge": told["model"],
        "date": told["date"],
    }  # fmt: skip


def judged_rule(result: Result, told: Mapping[str, Json]) -> str:
    """The rule of a judged score with the judge's name and the date, without which the number says little."""
    return f"{result.rule.rstrip('.')}. Judge: {told['title']}, {told['date']}."
