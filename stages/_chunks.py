"""Work over many records in Ray workers, in chunks that are the unit of everything: of batching, ledger and resume.

A model may answer a hair differently when a record shares its batch with others. Chunks are cut from the list of
records before anything runs and each is computed as one batch, so that a run that was killed and went on gives the
same bytes as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from llavaflow.infra.artifact import Json
from llavaflow.infra.context import RunContext
from llavaflow.infra.fingerprint import digest
from llavaflow.infra.ray import map_batches
from llavaflow.stages._jsonl import JsonLines

Record = TypeVar("Record")

# a worker that loads a model for seconds should have something to do with it
CHUNKS_PER_WORKER = 4


def chunked(records: Sequence[Record], size: int) -> list[Sequence[Record]]:
    return [records[start : start + size] for start in range(0, len(records), size)]


def resumable(
    ctx: RunContext,
    title: str,
    chunks: Sequence[Sequence[Any]],
    make: Callable[..., Callable[[list[Any]], list[Any]]],
    arguments: Callable[[], Mapping[str, Any]],
    as_json: Callable[[Any], Json],
) -> Iterator[list[Json]]:
    """The results of every chunk, in order, as lists of JSON rows; computes only what the work folder lacks.

    `make(**arguments())` gives a worker's function from a list of chunks to a list of lists of results.
    """
    names = [digest([record.id for record in chunk]) for chunk in chunks]
    ledger = _ledger(ctx, title)
    done = {line["chunk"]: line["rows"] for line in ledger.read()}
    missing = [number for number, name in enumerate(names) if name not in done]
    if missing:
        machine = ctx.machine
        found = map_batches(
            [chunks[number] for number in missing],
            make,
            arguments=arguments(),
            batch_size=1,
            workers=min(machine.devices or machine.cores * machine.nodes, -(-len(missing) // CHUNKS_PER_WORKER)),
            gpus_per_worker=1 if machine.devices else 0,
        )
        with ledger, ctx.progress.bar(title, sum(map(len, chunks))) as bar:
            bar.advance(sum(map(len, chunks)) - sum(len(chunks[number]) for number in missing))
            for number, results in zip(missing, found, strict=True):
                done[names[number]] = [as_json(result) for result in results]
                ledger.append({"chunk": names[number], "rows": done[names[number]]})
                bar.advance(len(results))
    for name in names:
        yield done[name]


def forget(ctx: RunContext, title: str, bad: Callable[[list[Json]], bool]) -> None:
    """Take the chunks that are bad out of the work folder, so that the next run computes them again."""
    ledger = _ledger(ctx, title)
    kept = [line for line in ledger.read() if not bad(line["rows"])]
    ledger.path.unlink(missing_ok=True)
    with ledger:
        for line in kept:
            ledger.append(line)


def _ledger(ctx: RunContext, title: str) -> JsonLines:
    return JsonLines(ctx.work / f"{title}.jsonl")
