"""Pictures of scores: bars per type of question beside what the model does without seeing, and LLaVA's radar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = {"images": "#2a6f97", "shuffled": "#a9b4c2", "blank": "#d0d5dd", "prior": "#e0a458"}
TITLES = {"images": "with images", "shuffled": "images shuffled", "blank": "images blanked", "prior": "best constant"}
RADAR_LEAST = 3
CATEGORIES_LEAST = 3
NOT_CATEGORIES = ("all", "with_failed", "rows", "runs")
# the number of a category that the field reports, and what makes a percentage of it where it is a share of one
REPORTED = {"relative": 1, "points": 1, "f1": 100, "accuracy": 1}


def bars(types: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """One group of bars per type: with images, shuffled, blank, and the prior."""
    figure, axes = _figure(1.6 + 1.5 * len(types), 3.6)
    series = [name for name in COLOURS if all(name in row for row in types.values())]
    width = 0.8 / len(series)
    for place, name in enumerate(series):
        heights = [row[name] for row in types.values()]
        left = [number - 0.4 + width * (place + 0.5) for number in range(len(types))]
        drawn = axes.bar(left, heights, width, color=COLOURS[name], label=TITLES[name])
        axes.bar_label(drawn, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(types)), list(types))
    axes.set_ylabel("score")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=len(series), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(out, dpi=110, bbox_inches="tight")


def categories(values: Mapping[str, float], title: str, out: Path) -> None:
    """One bar per category of a benchmark, in the order of its metrics."""
    figure, axes = _figure(5.2, 0.8 + 0.28 * len(values))
    drawn = axes.barh(range(len(values)), list(values.values()), 0.7, color=COLOURS["images"])
    axes.bar_label(drawn, fmt="%.1f", fontsize=7, padding=2)
    axes.set_yticks(range(len(values)), list(values), fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110, bbox_inches="tight")


def category_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The first group of at least three numbers among a benchmark's metrics; nothing where there is none."""
    reviewed = {name: value for name, value in metrics.items() if isinstance(value, Mapping) and "relative" in value}
    groups = [{name: value for name, value in reviewed.items() if name not in NOT_CATEGORIES}]
    groups += [
        dict(value) for name, value in metrics.items() if isinstance(value, Mapping) and name not in NOT_CATEGORIES
    ]
    for group in groups:
        numbers = {str(name): _number(value) for name, value in group.items()}
        found = {name: value for name, value in numbers.items() if value is not None}
        if len(found) >= CATEGORIES_LEAST:
            return found
    return {}


def _number(value: Any) -> float | None:
    """A category's number, or that one of its numbers which the field reports."""
    if isinstance(value, Mapping):
        value = next((scale * value[name] for name, scale in REPORTED.items() if name in value), None)
    return float(value) if isinstance(value, (int, float)) else None


def radar(rows: Mapping[str, Mapping[str, float]], names: Sequence[str], out: Path) -> bool:
    """LLaVA-1.5's radar: each axis scaled to its best row, whose value stands at it; the first row is ours.

    False when there are too few axes to draw one.
    """
    if len(names) < RADAR_LEAST:
        return False
    figure, axes = _figure(5, 5, polar=True)
    angles = [2 * math.pi * place / len(names) for place in range(len(names) + 1)]
    tops = {name: max(max(row.get(name, 0.0) for row in rows.values()), 1e-9) for name in names}
    for number, (title, row) in enumerate(rows.items()):
        radii = [row.get(name, 0.0) / tops[name] for name in names]
        axes.plot(angles, [*radii, radii[0]], linewidth=1.2 if number else 2.6, label=title, zorder=3 - bool(number))
        if not number:
            axes.fill(angles, [*radii, radii[0]], alpha=0.12)
    axes.set_xticks(angles[:-1], [f"{name}\n{tops[name]:.1f}" for name in names], fontsize=9)
    axes.tick_params(axis="x", pad=14)
    axes.set_yticklabels([])
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.34), ncols=2)
    figure.savefig(out, dpi=110, bbox_inches="tight")
    return True


def _figure(width: float, height: float, polar: bool = False) -> Any:
    """A figure without pyplot: it needs no display and leaves nothing behind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot(projection="polar" if polar else None)
