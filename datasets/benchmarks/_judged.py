"""Asking a judge until it can be read: all questions at once, then those again whose replies say nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from llavaflow.datasets.benchmarks._benchmark import Judge, Prompt

Read = TypeVar("Read")


def ask_until_read(
    judge: Judge, count: int, prompt: Callable[[int, int], Prompt], read: Callable[[str], Read | None], attempts: int
) -> list[tuple[Read | None, str]]:
    """What the judge says of each of `count` things, None where no attempt could be read, with its last words.

    `prompt(place, attempt)` words the question; a failed call has an empty reply and is asked again like any other.
    """
    found: list[tuple[Read | None, str]] = [(None, "")] * count
    left = list(range(count))
    for attempt in range(attempts):
        if not left:
            break
        replies = judge([prompt(place, attempt) for place in left])
        for place, reply in zip(left, replies, strict=True):
            found[place] = (read(reply), reply)
        left = [place for place in left if found[place][0] is None]
    return found
