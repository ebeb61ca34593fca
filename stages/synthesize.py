"""Synthesize: a language model that sees captions and boxes writes visual instructions, as LLaVA-Instruct was made.

    captions + boxes -> prompts -> any OpenAI-compatible service -> parsed records
                                   (request ledger, budget, retries, Batch API)

The service is that of OPENAI_BASE_URL and OPENAI_API_KEY. The model `rule-teacher` needs none: without an address, a
local teacher is started that answers by rule (`_teacher.py`), and the facts name it as what it is.
Every answer is kept in `answers.jsonl` with its cost; a refresh asks only what was not asked before.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llavaflow.datasets._index import IndexWriter, sha256_bytes
from llavaflow.datasets._sample import Sample, to_llava
from llavaflow.datasets._shards import ShardWriter
from llavaflow.datasets._source import Reading, source
from llavaflow.datasets.coco import Context, contexts
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.models.pixels import ImageError, image_size
from llavaflow.stages._answers import Unusable
from llavaflow.stages._card import Card, write_card
from llavaflow.stages._chat import NO_KEY, Chat, Endpoint, service_of_environment
from llavaflow.stages._chat_batch import BatchChat
from llavaflow.stages._jsonl import JsonLines
from llavaflow.stages._ledger import Price, Reply, Request, RequestLedger
from llavaflow.stages._stage import Stage
from llavaflow.stages._tasks import Task, choose_tasks
from llavaflow.stages._teacher import MODEL, TITLE, RuleTeacher

ANSWERS = "answers.jsonl"


@dataclass(frozen=True, kw_only=True)
class Synthesize(Stage):
    """Conversations, descriptions and reasoning about the COCO images of `data` (a stage or an outside folder).

    folder, images          captions and instances files; the image folder inside
    conversation .. complex images per kind; None takes the published share of all images
    input_usd, output_usd   price of a million tokens, for the budget; 0: that of infra/prices.py
    batch                   use the Batch API: half the price, within a day
    min_usable              share of answers that must parse
    """

    kind: ClassVar[Kind] = "mixture"

    data: Stage | Path
    folder: str = "raw/coco"
    images: str = "train2017"
    model: str = MODEL
    conversation: int | None = None
    detail: int | None = None
    complex: int | None = None
    temperature: float = 0.0
    max_tokens: int = 2048
    input_usd: float = 0.0
    output_usd: float = 0.0
    concurrency: int = 8
    batch: bool = False
    seed: int = 0
    min_usable: float = 0.9
    images_per_shard: int = 1000

    def run(self, ctx: RunContext) -> Artifact:
        root = (self.data if isinstance(self.data, Path) else ctx.path(self.data)) / self.folder
        found, dropped = self._contexts(root)
        counts = {"conversation": self.conversation, "detail": self.detail, "complex": self.complex}
        tasks = choose_tasks(found, counts, self.seed)
        if not tasks:
            raise InputError(
                f"no image under {root / self.images} has captions in {root}: there is nothing to ask about."
            )
        requests = {
            task.id: task.request(model=self.model, temperature=self.temperature, max_tokens=self.max_tokens)
            for task in tasks
        }
        replies, refused, cost = self._ask(ctx, list(requests.values()))
        samples, bad = _parsed(tasks, requests, replies, refused, self.seed)
        self._gate(len(tasks), bad)
        self._write(ctx, root, tasks, requests, replies, samples, bad)
        dropped += Counter(bad.values())
        kinds = dict(Counter(task.kind for task in tasks if task.id in samples))
        write_card(ctx.out, self._card(ctx, kinds, dropped))
        facts = {"samples": len(samples), "kinds": kinds, **cost, "dropped": dict(sorted(dropped.items()))}
        return ctx.finish(facts)

    def _card(self, ctx: RunContext, kinds: Mapping[str, int], dropped: Mapping[str, int]) -> Card:
        # not the address that was asked: a run that goes on after a kill may have had no need to ask
        teacher = TITLE if self.model == MODEL else self.model
        told = ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items()))
        return Card(
            title="Visual instructions, in the form of LLaVA-Instruct",
            form="conversations",
            fingerprint=ctx.fingerprint,
            samples=sum(kinds.values()),
            about=[f"Written by {teacher} from captions and boxes of COCO images: {told}."],
            licences=[f"coco: {source('coco').licence}", "texts: the terms of the model that wrote them"],
            dropped=dropped,
        )

    def _contexts(self, root: Path) -> tuple[list[Context], Counter[str]]:
        """The images that can be asked about, by id; an image that is not there is dropped before it costs anything."""
        dropped: Counter[str] = Counter()
        found: list[Context] = []
        for item in contexts(root, Reading(seed=self.seed)):
            if isinstance(item, Sample):
                dropped[item.dropped or "unusable"] += 1
            elif not (root / self.images / item.file_name).is_file():
                dropped["missing-image"] += 1
            elif not item.captions:
                dropped["no-caption"] += 1
            else:
                found.append(item)
        return sorted(found, key=lambda context: context.id), dropped

    def _ask(
        self, ctx: RunContext, requests: Sequence[Request]
    ) -> tuple[dict[str, Reply], dict[str, str], dict[str, Any]]:
        """Every reply by request id, every refusal, and what it took."""
        known = _previous_replies(ctx)
        missing = [request for request in requests if request.id not in known]
        price = Price.of_model(self.model, self.input_usd, self.output_usd)
        ledger = RequestLedger(ctx.work / "requests.jsonl", price=price, budget=ctx.budget)
        teacher = "not asked"
        if any(not ledger.settled(request) for request in missing) or ledger.open_batches:
            with ExitStack() as stack:
                endpoint, teacher = self._teacher(stack)
                ctx.log.info("asking %s", teacher)
                if teacher != TITLE:
                    price.check(ctx.budget, self.model)
                stack.enter_context(ledger)
                bar = stack.enter_context(ctx.progress.bar("synthesize", len(requests)))
                bar.advance(len(requests) - sum(not ledger.settled(request) for request in missing))
                if self.batch:
                    BatchChat(endpoint, ledger).ask_all(missing, bar.advance)
                else:
                    Chat(endpoint, ledger).ask_all(missing, self.concurrency, bar.advance)
        ids = {request.id for request in requests}
        reused = sum(request_id in ids for request_id in known)
        cost = {
            "teacher": TITLE if self.model == MODEL and teacher in (TITLE, "not asked") else teacher,
            "requests": len(ids),
            "reused": reused,
            "tokens": ledger.tokens,
            "usd": round(ledger.usd, 4),
        }
        return known | ledger.replies, ledger.refused, cost

    def _teacher(self, stack: ExitStack) -> tuple[Endpoint, str]:
        """Where to ask, and what to call it."""
        if not os.environ.get("OPENAI_BASE_URL") and self.model == MODEL:
            local = stack.enter_context(RuleTeacher())
            return Endpoint(base_url=local.base_url, api_key=NO_KEY), TITLE
        return service_of_environment(self.model, MODEL)

    def _gate(self, asked: int, bad: Mapping[str, str]) -> None:
        if len(bad) > (1 - self.min_usable) * asked:
            reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(bad.values()).most_common())
            raise StageFailed(
                f"only {asked - len(bad)} of {asked} answers of {self.model} can be used ({reasons}); "
                f"min_usable is {self.min_usable:.0%}. The answers are in the ledger: look at the model and prompts."
            )

    def _write(
        self,
        ctx: RunContext,
        root: Path,
        tasks: Sequence[Task],
        requests: Mapping[str, Request],
        replies: Mapping[str, Reply],
        samples: Mapping[str, Sample],
        bad: Mapping[str, str],
    ) -> None:
        up = self._fingerprint(ctx)
        (ctx.out / ANSWERS).unlink(missing_ok=True)
        with IndexWriter(ctx.out) as index, JsonLines(ctx.out / ANSWERS) as answers:
            self._write_images(ctx, root, [task for task in tasks if task.id in samples], up, index)
            with (ctx.out / "data.jsonl").open("wb") as data:
                row = 0
                for task in tasks:
                    request_id = requests[task.id].id
                    if request_id in replies:
                        answers.append({"id": task.id, "request": request_id, **vars(replies[request_id])})
                    parents = [f"{up}:{name}" for name in task.parents()]
                    if task.id in bad:
                        index.add(task.id, source="llava-instruct", parents=parents, dropped=bad[task.id])
                        continue
                    line = json.dumps(to_llava(samples[task.id]), ensure_ascii=False).encode()
                    data.write(line + b"\n")
                    place: dict[str, Any] = {"sha256": sha256_bytes(line), "file": "data.jsonl", "row": row}
                    index.add(task.id, source="llava-instruct", parents=parents, **place)
                    row += 1

    def _write_images(self, ctx: RunContext, root: Path, tasks: Sequence[Task], up: str, index: IndexWriter) -> None:
        with ShardWriter(ctx.out, per_shard=self.images_per_shard) as shards:
            for task in sorted(tasks, key=lambda task: task.image):
                if task.image in shards:
                    continue
                context = task.context
                data = (root / self.images / context.file_name).read_bytes()
                width, height = _shown_size(data, context)
                placed = shards.add(task.image, data, {"id": context.id}, width=width, height=height)
                index.add(
                    f"image/{task.image}",
                    source="llava-instruct",
                    parents=[f"{up}:coco:image/{context.file_name}"],
                    sha256=placed.sha256,
                    file=placed.file,
                    row=placed.row,
                )

    def _fingerprint(self, ctx: RunContext) -> str:
        """How parents name the input: an artifact, or an outside folder by its digest."""
        if isinstance(self.data, Stage):
            return ctx.artifact(self.data).fingerprint
        outside: Mapping[str, str] = getattr(ctx.identity, "outside", {})
        return outside.get("data", "outside")


def _shown_size(data: bytes, context: Context) -> tuple[int, int]:
    """Width and height of the upright image; those of the annotation file for one that has no readable header."""
    try:
        return image_size(data)
    except ImageError:
        return context.width, context.height


def _parsed(
    tasks: Sequence[Task],
    requests: Mapping[str, Request],
    replies: Mapping[str, Reply],
    refused: Mapping[str, str],
    seed: int,
) -> tuple[dict[str, Sample], dict[str, str]]:
    """The record of every task whose answer can be used, and the reason for every other."""
    samples: dict[str, Sample] = {}
    bad: dict[str, str] = {}
    for task in tasks:
        request_id = requests[task.id].id
        if request_id in refused:
            bad[task.id] = "refused"
            continue
        try:
            samples[task.id] = task.sample(replies[request_id], seed)
        except Unusable as error:
            bad[task.id] = error.reason
    return samples, bad


def _previous_replies(ctx: RunContext) -> dict[str, Reply]:
    """Answers that an earlier generation has paid for."""
    if ctx.previous is None:
        return {}
    return dict(_read_answers(ctx.store.local_path(ctx.previous) / ANSWERS))


def _read_answers(path: Path) -> Iterator[tuple[str, Reply]]:
    for row in JsonLines(path).read():
        yield row["request"], Reply(**{name: row[name] for name in Reply.__dataclass_fields__})
