"""Rows of nearly equal length: the samples of one optimizer step, cut into micro-steps of one row per rank.

Longest-first onto the emptiest row, then exchanges of one sample at a time for as long as they lower the longest row of
a micro-step. The rows of a micro-step are neighbours in length, so a capacity that forces uneven rows costs little.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]

# more rounds than any real step needs: each one lowers the longest row or stops
_SWAPS = 200


def balance(samples: Longs, lengths: Longs, ranks: int, max_row: int) -> tuple[tuple[Longs, ...], ...]:
    """As few micro-steps as the row length allows, each of `ranks` rows of nearly equal length."""
    micros = max(1, -(-int(lengths.sum()) // (ranks * max_row)))
    while True:
        rows = _spread(lengths, micros * ranks, max_row)
        if rows is not None:
            break
        micros += 1
    rows.sort(key=lambda row: -int(lengths[row].sum()))
    groups = [_even_out(rows[start : start + ranks], lengths) for start in range(0, len(rows), ranks)]
    # the order inside a row is the order of the epoch, so that equal plans are equal to the last bit
    return tuple(tuple(samples[np.sort(np.array(row, np.int64))] for row in group) for group in groups)


def _spread(lengths: Longs, rows: int, max_row: int) -> list[list[int]] | None:
    """Longest first, each to the emptiest row; None when a row would grow too long."""
    heap = [(0, row) for row in range(rows)]
    dealt: list[list[int]] = [[] for _ in range(rows)]
    for item in np.argsort(-lengths, kind="stable").tolist():
        load, row = heapq.heappop(heap)
        load += int(lengths[item])
        if load > max_row:
            return None
        dealt[row].append(item)
        heapq.heappush(heap, (load, row))
    return dealt


def _even_out(rows: list[list[int]], lengths: Longs) -> list[list[int]]:
    """Lower the longest row by moving or swapping one sample at a time, while any exchange lowers it."""
    loads = [int(lengths[row].sum()) for row in rows]
    for _ in range(_SWAPS):
        top = max(range(len(rows)), key=loads.__getitem__)
        better = _best_swap(rows, loads, lengths, top)
        if better is None:
            break
        other, give, take = better
        moved = int(lengths[rows[top][give]]) - (int(lengths[rows[other][take]]) if take >= 0 else 0)
        sample = rows[top].pop(give)
        if take >= 0:
            rows[top].append(rows[other].pop(take))
        rows[other].append(sample)
        loads[top] -= moved
        loads[other] += moved
    return rows


def _best_swap(rows: list[list[int]], loads: list[int], lengths: Longs, top: int) -> tuple[int, int, int] | None:
    """(other row, place here, place there or -1): the exchange after which the longer of the two is shortest."""
    best: tuple[int, tuple[int, int, int]] | None = None
    mine = lengths[rows[top]]
    for other in range(len(rows)):
        gap = loads[top] - loads[other]
        if gap < 2:
            continue
        theirs = np.append(lengths[rows[other]], 0)
        moved = mine[:, None] - theirs[None, :]
        after = np.maximum(loads[top] - moved, loads[other] + moved)
        place = int(after.argmin())
        value = int(after.flat[place])
        if value < loads[top] and (best is None or value < best[0]):
            give, take = divmod(place, len(theirs))
            best = value, (other, give, take if take < len(theirs) - 1 else -1)
    return best[1] if best else None
