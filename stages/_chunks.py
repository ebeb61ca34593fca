"""Work over many records in Ray workers, in chunks that are the unit of everything: of batching, ledger and resume.

A model may answer a hair differently when a record shares its batch with others. Chunks are cut from the list of
records before anything runs and each is computed as one batch, so that a run that was killed and went on gives the
same bytes as one that was not.

Chunks are taken up in waves and results stay in the ledger until they are asked for, so that millions of records need
no more memory than one wave of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, TypeVar

from llavaflow.infra.artifact import Json
from llavaflow.infra.context import Bar, RunContext
from llavaflow.infra.fingerprint import digest
from llavaflow.infra.ray import map_batches
from llavaflow.stages._jsonl import JsonLines

Record = TypeVar("Record")
Make = Callable[..., Callable[[list[Any]], list[Any]]]

# a worker that loads a model for seconds should have something to do with it
CHUNKS_PER_WORKER = 4
# every wave starts its workers anew: long enough for that not to count
CHUNKS_PER_WAVE = 4096


def chunked(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """The records in lists of `size`; the last one may be shorter."""
    rest = iter(records)
    while chunk := list(islice(rest, size)):
        yield chunk


def resumable(
    ctx: RunContext,
    title: str,
    chunks: Iterable[Sequence[Any]],
    make: Make,
    arguments: Callable[[], Mapping[str, Any]],
    as_json: Callable[[Any], Json],
    *,
    total: int,
) -> Iterator[list[Json]]:
    """The results of every chunk, in order, as lists of JSON rows; computes only what the work folder lacks.

    `make(**arguments())` gives a worker's function from a list of chunks to a list of lists of results; `total` is the
    number of records in all chunks.
    """
    ledger, once = _ledger(ctx, title), cache(arguments)
    places = {line["chunk"]: start for start, line in ledger.places()}
    rest = iter(chunks)
    with ctx.progress.bar(title, total) as bar:
        while wave := list(islice(rest, CHUNKS_PER_WAVE)):
            names = [digest([record.id for record in chunk]) for chunk in wave]
            missing = {name: chunk for name, chunk in zip(names, wave, strict=True) if name not in places}
            bar.advance(sum(map(len, wave)) - sum(map(len, missing.values())))
            if missing:
                places |= _compute(ctx, ledger, missing, make, once(), as_json, bar)
            for name in names:
                yield ledger.read_at(places[name])["rows"]


def _compute(
    ctx: RunContext,
    ledger: JsonLines,
    missing: Mapping[str, Sequence[Any]],
    make: Make,
    arguments: Mapping[str, Any],
    as_json: Callable[[Any], Json],
    bar: Bar,
) -> dict[str, int]:
    """Compute chunks in the workers, write each to the ledger, and say where it stands there."""
    machine = ctx.machine
    found = map_batches(
        list(missing.values()),
        make,
        arguments=arguments,
        batch_size=1,
        workers=min(machine.devices or machine.cores * machine.nodes, -(-len(missing) // CHUNKS_PER_WORKER)),
        gpus_per_worker=1 if machine.devices else 0,
    )
    places = {}
    with ledger:
        for name, results in zip(missing, found, strict=True):
            places[name] = ledger.append({"chunk": name, "rows": [as_json(result) for result in results]})
            bar.advance(len(results))
    return places


def forget(ctx: RunContext, title: str, bad: Callable[[list[Json]], bool]) -> None:
    """Take the chunks that are bad out of the work folder, so that the next run computes them again."""
    ledger = _ledger(ctx, title)
    kept = JsonLines(ledger.path.with_suffix(".kept"))
    kept.path.unlink(missing_ok=True)
    with kept:
        for line in ledger.read():
            if not bad(line["rows"]):
                kept.append(line)
    kept.path.replace(ledger.path)


def _ledger(ctx: RunContext, title: str) -> JsonLines:
    return JsonLines(ctx.work / f"{title}.jsonl")
