"""Edit distance between two texts: the smallest number of inserted, deleted or replaced characters."""

from __future__ import annotations


def edit_distance(left: str, right: str) -> int:
    """Levenshtein distance, after cutting what both share at the ends (replies often repeat the gold)."""
    start = 0
    while start < min(len(left), len(right)) and left[start] == right[start]:
        start += 1
    left, right = left[start:], right[start:]
    while left and right and left[-1] == right[-1]:
        left, right = left[:-1], right[:-1]
    if len(left) < len(right):
        left, right = right, left
    row = list(range(len(right) + 1))
    for number, here in enumerate(left, start=1):
        diagonal, row[0] = row[0], number
        for place, there in enumerate(right, start=1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (here != there))
    return row[-1]
