"""Rows of nearly equal length: the samples of one optimizer step, cut into micro-steps of one row per rank.

Longest-first onto the emptiest row; rows of similar length then share a micro-step. After that, single samples are
exchanged for as long as that lowers the longest row of a micro-step without raising that of another.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]

# more rounds than any real step needs: each one lowers a longest row or stops
_ROUNDS = 100


def balance(samples: Longs, lengths: Longs, ranks: int, max_row: int) -> tuple[tuple[Longs, ...], ...]:
    """As few micro-steps as the row length allows, each of `ranks` rows of nearly equal length."""
    micros = max(1, -(-int(lengths.sum()) // (ranks * max_row)))
    while True:
        owner = _spread(lengths, micros * ranks, max_row)
        if owner is not None:
            break
        micros += 1
    owner = _even_out(_longest_first(owner, lengths, micros * ranks), lengths, ranks, micros)
    # inside a row samples keep the order of the epoch, so that equal plans are equal to the last bit
    rows = [samples[owner == row] for row in range(micros * ranks)]
    return tuple(tuple(rows[micro * ranks : (micro + 1) * ranks]) for micro in range(micros))


def _spread(lengths: Longs, rows: int, max_row: int) -> Longs | None:
    """The row of every sample: longest first, each to the emptiest row. None when a row would grow too long."""
    heap = [(0, row) for row in range(rows)]
    owner = np.zeros(len(lengths), np.int64)
    for item in np.argsort(-lengths, kind="stable").tolist():
        load, row = heapq.heappop(heap)
        load += int(lengths[item])
        if load > max_row:
            return None
        owner[item] = row
        heapq.heappush(heap, (load, row))
    return owner


def _loads(owner: Longs, lengths: Longs, rows: int) -> Longs:
    return np.bincount(owner, weights=lengths, minlength=rows).astype(np.int64)


def _longest_first(owner: Longs, lengths: Longs, rows: int) -> Longs:
    """Rows renumbered by falling length, so that neighbours share a micro-step."""
    rank = np.empty(rows, np.int64)
    rank[np.argsort(-_loads(owner, lengths, rows), kind="stable")] = np.arange(rows)
    renumbered: Longs = rank[owner]
    return renumbered


def _even_out(owner: Longs, lengths: Longs, ranks: int, micros: int) -> Longs:
    """Lower the longest row of each micro-step in turn, until no exchange lowers any."""
    for _ in range(_ROUNDS):
        if not any([_lower(owner, lengths, ranks, micros, micro) for micro in range(micros)]):
            break
    return owner


def _lower(owner: Longs, lengths: Longs, ranks: int, micros: int, micro: int) -> bool:
    """Hand a sample of the longest row to any row with room, for a shorter one or for none."""
    loads = _loads(owner, lengths, ranks * micros)
    tops = loads.reshape(micros, ranks).max(axis=1)
    top = micro * ranks + int(loads[micro * ranks : (micro + 1) * ranks].argmax())
    second = int(np.partition(loads[micro * ranks : (micro + 1) * ranks], -2)[-2]) if ranks > 1 else 0
    mine, others = np.flatnonzero(owner == top), np.flatnonzero(owner != top)
    rows = np.concatenate([owner[others], np.delete(np.arange(len(loads)), top)])
    taken = np.concatenate([lengths[others], np.zeros(len(loads) - 1, np.int64)])
    moved = lengths[mine][:, None] - taken[None, :]
    # strictly below the longest of its own micro-step: nobody's longest row grows, and the exchange ends
    fits = (moved > 0) & (loads[rows] + moved < np.repeat(tops, ranks)[rows])
    gain = np.where(fits, np.minimum(moved, max(1, loads[top] - second)), 0)
    if not gain.size or gain.max() == 0:
        return False
    give, take = divmod(int(gain.argmax()), len(rows))
    owner[mine[give]] = rows[take]
    if take < len(others):
        owner[others[take]] = top
    return True
