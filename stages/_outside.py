"""Outside folders that count by their content: checkpoints, and results of another tool.

An outside folder counts by the names and sizes of its files, which is right for a hundred gigabytes of images; two
checkpoints of one shape differ in neither. Named one by one, files count by what is in them, and a digest is
remembered by path, size and time, so that no plan reads weights twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def by_content(places: Mapping[str, Path]) -> dict[str, Path]:
    """Every folder replaced by the files below it; what is no folder, or not there, stays as it is."""
    found: dict[str, Path] = {}
    for name, place in places.items():
        files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else []
        found |= {f"{name}/{path.relative_to(place)}": path for path in files} or {name: place}
    return found
