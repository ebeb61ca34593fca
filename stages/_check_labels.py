"""Exact lengths and a dry run of the labels for many records: a process per core, once there are many.

What comes back of a record is its length and what was cut, not its arrays: they cost more to send than to make.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

from llavaflow.infra.machine import this_machine
from llavaflow.models.labels import BATCH, Item, Rejected, encode_many
from llavaflow.models.templates import template

# below this the other processes would not be ready before the work is done
MANY = 8192


class Length(NamedTuple):
    """Tokens of a record, images included, and the turns that were left off to make it fit."""

    tokens: int
    cut_turns: int


class Labeller:
    """`with Labeller(...) as labeller: labeller.lengths(items)`, again and again."""

    def __init__(self, tokenizer: Any, template_name: str, max_length: int) -> None:
        self._given = (tokenizer, template_name, max_length)
        self._cores = this_machine().cores
        self._seen = 0
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Labeller:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def lengths(self, items: Sequence[Item]) -> list[Length | Rejected]:
        """The result of every item, in their order."""
        self._seen += len(items)
        if self._seen <= MANY or self._cores == 1:
            return _lengths(items, *self._given)
        if self._pool is None:
            # spawned, since this process has threads by now
            self._pool = ProcessPoolExecutor(self._cores, get_context("spawn"), _start, self._given)
        share = min(BATCH, -(-len(items) // self._cores))
        parts = [items[start : start + share] for start in range(0, len(items), share)]
        return [length for part in self._pool.map(_in_worker, parts) for length in part]


def image_token(tokenizer: Any) -> int:
    """The id that stands for an image: the tokenizer's own, or one past its end for a dry run."""
    number = tokenizer.convert_tokens_to_ids("<image>")
    known = isinstance(number, int) and number != tokenizer.unk_token_id
    return int(number) if known else len(tokenizer)


_worker: tuple[Any, str, int] | None = None


def _start(*given: Any) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer, template_name, max_length = given
    _worker = (tokenizer, template_name, max_length)


def _in_worker(items: Sequence[Item]) -> list[Length | Rejected]:
    assert _worker is not None, "the initializer has run"
    return _lengths(items, *_worker)


def _lengths(items: Sequence[Item], tokenizer: Any, template_name: str, max_length: int) -> list[Length | Rejected]:
    made = encode_many(
        items,
        template=template(template_name),
        tokenizer=tokenizer,
        image_token_id=image_token(tokenizer),
        max_length=max_length,
    )
    return [item if isinstance(item, Rejected) else Length(len(item), item.cut_turns) for item in made]
