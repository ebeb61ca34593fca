"""Judge: open answers reviewed by a language model over the OpenAI protocol (LLaVA-Bench, MM-Vet).

Any OpenAI-compatible endpoint will do (`OPENAI_BASE_URL`); without one the local judge answers on loopback, under its
own name. Every finished call stands in a ledger and is never paid twice; a reply without scores is asked for again,
then left out and counted. Several runs give a mean and a spread; the judge's model and the date stay with the number.

    reviews/<bench>.<run>.jsonl   LLaVA's review lines       reviews/mmvet.json   MM-Vet's grades of all runs
    scores.json                   results with judge and date
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from llavaflow.datasets.benchmarks._answers import read_answers
from llavaflow.datasets.benchmarks._benchmark import Benchmark, Options, Pair, Result, load_benchmark
from llavaflow.datasets.benchmarks._join import join
from llavaflow.datasets.benchmarks._reviews import review, write_reviews
from llavaflow.datasets.benchmarks.mmvet import grade, write_grades
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.infra.fingerprint import digest
from llavaflow.stages._local_judge import NAME as LOCAL
from llavaflow.stages._local_judge import LocalJudge
from llavaflow.stages._stage import Stage

Said = TypeVar("Said")
RULES = {"llava-bench-coco": ("coco", ""), "llava-bench-wild": ("wild", "llava_bench_")}
AT_ONCE = 8
RETRIES = 6
TIMEOUT_S = 120.0


class Endpoint:
    """A judge behind an OpenAI-compatible address, with a ledger of finished calls; safe to call from threads."""

    def __init__(self, model: str, ledger: Path, *, base_url: str | None = None, run: int = 0) -> None:
        from openai import OpenAI

        self.model = model
        self.run = run
        key = os.environ.get("OPENAI_API_KEY") or ("none" if base_url else None)
        if key is None:
            raise InputError(
                f"no key for the judge {model}: set OPENAI_API_KEY, or OPENAI_BASE_URL for another server."
            )
        self._client = OpenAI(base_url=base_url, api_key=key, max_retries=RETRIES, timeout=TIMEOUT_S)
        self._ledger = ledger
        self._lock = threading.Lock()
        self._known = dict(_ledger_rows(ledger))
        self.calls = 0

    def __call__(
        self, prompt: str, *, system: str = "", temperature: float = 0.0, max_tokens: int = 1024, attempt: int = 0
    ) -> str:
        name = digest([self.model, self.run, system, prompt, temperature, max_tokens, attempt])
        if name not in self._known:
            reply = self._ask(prompt, system, temperature, max_tokens)
            if reply is None:
                return ""
            self._keep(name, reply)
        return self._known[name]

    def _ask(self, prompt: str, system: str, temperature: float, max_tokens: int) -> str | None:
        """The reply, or None for a call that the server refused for its content or broke off."""
        import openai

        messages: list[Any] = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        try:
            done = self._client.chat.completions.create(
                model=self.model, messages=messages, temperature=temperature, max_tokens=max_tokens
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise InputError(f"the judge {self.model} at {self._client.base_url} refuses: {error.message}.") from error
        except openai.APIConnectionError as error:
            raise StageFailed(
                f"the judge at {self._client.base_url} cannot be reached after {RETRIES} retries. "
                "Finished reviews are kept: run the same command again."
            ) from error
        except openai.APIStatusError:
            return None
        self.calls += 1
        return done.choices[0].message.content or ""

    def _keep(self, name: str, reply: str) -> None:
        row = {
            "key": name,
            "model": self.model,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "reply": reply,
        }
        with self._lock, self._ledger.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._known[name] = reply


def _ledger_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Finished calls; a line cut by a kill is asked again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        path.write_text(text := text[: text.rfind("\n") + 1], encoding="utf-8")
    for line in text.splitlines():
        row = json.loads(line)
        yield row["key"], row["reply"]


@contextmanager
def endpoint(model: str, ledger: Path, run: int = 0) -> Iterator[Endpoint]:
    """A judge by name: the local one on loopback, or the one behind the environment's OpenAI address."""
    if model == LOCAL:
        with LocalJudge() as local:
            yield Endpoint(model, ledger, base_url=local.url, run=run)
    else:
        yield Endpoint(model, ledger, base_url=os.environ.get("OPENAI_BASE_URL"), run=run)


def at_once(pairs: Sequence[Pair], ask: Callable[[Pair], Said]) -> list[Said]:
    """What the judge says of all answers, several calls at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, pairs))


@dataclass(frozen=True, kw_only=True)
class Judge(Stage):
    """Which answers are reviewed by which judge.

    answers: a stage with answers/<bench>.jsonl. questions: a stage with eval/<bench>/ and contexts.
    """

    kind: ClassVar[Kind] = "scores"

    answers: Stage
    questions: Stage
    benchmarks: tuple[str, ...] = ("llava-bench-coco",)
    judge: str = LOCAL
    runs: int = 1

    def run(self, ctx: RunContext) -> Artifact:
        shutil.rmtree(ctx.out, ignore_errors=True)
        (ctx.out / "reviews").mkdir(parents=True)
        results = {name: self._benchmark(ctx, load_benchmark(name)) for name in self.benchmarks}
        facts = {
            "samples": sum(result.n for result in results.values()),
            "judge": self.judge,
            "runs": self.runs,
            "scores": {
                name: {"score": result.score, "n": result.n, "rule": f"{result.rule} Judge: {self.judge}."}
                for name, result in results.items()
            },
            "failed": {name: result.metrics["failed"] for name, result in results.items()},
        }
        document = {
            "judge": self.judge,
            "date": datetime.now(UTC).date().isoformat(),
            "results": {name: result.as_json() for name, result in results.items()},
        }
        (ctx.out / "scores.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        return ctx.finish(facts)

    def _benchmark(self, ctx: RunContext, benchmark: Benchmark) -> Result:
        gold = ctx.path(self.questions) / "eval" / benchmark.name
        given = read_answers(ctx.path(self.answers) / "answers" / f"{benchmark.name}.jsonl")
        items = benchmark.items(gold, Options())
        pairs = join(items, given, benchmark.names, benchmark=benchmark.name, allow_missing=False).pairs
        ledger = ctx.work / f"{benchmark.name}.jsonl"
        if benchmark.name == "mmvet":
            files = [self._graded(ctx, pairs, ledger)]
        else:
            files = [self._reviewed(ctx, benchmark, pairs, ledger, run) for run in range(self.runs)]
        return benchmark.result(pairs, replace(Options(), reviews=tuple(files)))

    def _reviewed(self, ctx: RunContext, benchmark: Benchmark, pairs: Sequence[Pair], ledger: Path, run: int) -> Path:
        if benchmark.name not in RULES:
            raise InputError(f"{benchmark.name} has no judge; the judge stage knows mmvet, {', '.join(RULES)}.")
        rule, prefix = RULES[benchmark.name]
        path = ctx.out / "reviews" / f"{benchmark.name}.{run}.jsonl"
        with endpoint(self.judge, ledger, run) as judge:
            write_reviews(at_once(pairs, partial(review, rule=rule, judge=judge)), pairs, path, prefix)
        return path

    def _graded(self, ctx: RunContext, pairs: Sequence[Pair], ledger: Path) -> Path:
        runs = []
        for run in range(self.runs):
            with endpoint(self.judge, ledger, run) as judge:
                runs.append(at_once(pairs, partial(grade, judge=judge)))
        write_grades(runs, pairs, self.judge, path := ctx.out / "reviews" / "mmvet.json")
        return path
