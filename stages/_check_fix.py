"""A repaired copy of a training set as LLaVA JSON: what can be mended without guessing is, every change recorded.

The original is never touched. A record that still has an error after mending goes to the quarantine list, whole.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import orjson

from llavaflow.datasets._images import ImageFolder
from llavaflow.datasets._raw import Bad
from llavaflow.datasets._records import Records
from llavaflow.datasets.llava_json import unused_name
from llavaflow.models.templates import IMAGE
from llavaflow.stages._check import Checked, Gate, Rules
from llavaflow.stages._check_record import ROLES

Change = dict[str, Any]


def write_fixed(records: Records, out: Path, rules: Rules) -> dict[str, int]:
    """Write OUT, OUT.changes.jsonl and OUT.quarantine.jsonl; how many records were kept, changed and set aside.

    The files appear when they are complete.
    """
    places = (out, *files_beside(out))
    scratch = [place.with_name(f".{place.name}.{os.getpid()}.part") for place in places]
    try:
        with scratch[0].open("wb") as kept, scratch[1].open("wb") as changes, scratch[2].open("wb") as bad:
            counts = _write(records, rules, out.suffix == ".json", kept, changes, bad)
        for part, place in zip(scratch, places, strict=True):
            part.replace(place)
    finally:
        for part in scratch:
            part.unlink(missing_ok=True)
    return counts


def _write(
    records: Records, rules: Rules, as_list: bool, kept: IO[bytes], changes: IO[bytes], bad: IO[bytes]
) -> dict[str, int]:
    mender = Mender(rules.images if isinstance(rules.images, ImageFolder) else None)
    counts: Counter[str] = Counter(records=0, changes=0, quarantined=0)
    for checked in Gate(rules=rules).examine(mender.mended(records.rows())):
        if checked.errors or _is_copy(checked):
            bad.write(orjson.dumps(_quarantined(checked)) + b"\n")
            counts["quarantined"] += 1
            continue
        kept.write((b",\n" if counts["records"] else b"[\n") if as_list else b"")
        kept.write(orjson.dumps(checked.raw) + (b"" if as_list else b"\n"))
        counts["records"] += 1
    if as_list:
        kept.write(b"\n]\n" if counts["records"] else b"[]\n")
    for change in mender.changes:
        changes.write(orjson.dumps(change) + b"\n")
        counts["changes"] += 1
    return dict(counts)


def files_beside(out: Path) -> tuple[Path, Path]:
    """Where the changes and the quarantined records of a repaired copy are written."""
    return out.with_name(f"{out.name}.changes.jsonl"), out.with_name(f"{out.name}.quarantine.jsonl")


def _is_copy(checked: Checked) -> bool:
    return any(finding.kind == "duplicate-record" for finding in checked.findings)


def _quarantined(checked: Checked) -> dict[str, Any]:
    reasons = [[finding.kind, finding.detail] for finding in checked.findings]
    # of a line that cannot be read, the reason tells the place
    raw = None if isinstance(checked.raw, Bad) else checked.raw
    return {"record": checked.number, "reasons": reasons, "raw": raw}


class Mender:
    """Mends records one after another; `changes` says what was done to which. Paths are mended inside a folder."""

    def __init__(self, images: ImageFolder | None) -> None:
        self.images = images
        self.changes: list[Change] = []
        self._ids: dict[str, int] = {}

    def mended(self, rows: Iterator[Any]) -> Iterator[Any]:
        for number, raw in enumerate(rows):
            if not isinstance(raw, Mapping) or not isinstance(raw.get("conversations"), list):
                yield raw
                continue
            yield self._mend(dict(raw), number)

    def _mend(self, raw: dict[str, Any], number: int) -> dict[str, Any]:
        def note(kind: str, before: Any, after: Any) -> None:
            self.changes.append({"record": number, "id": raw.get("id"), "kind": kind, "before": before, "after": after})

        self._mend_id(raw, number, note)
        turns = [dict(turn) for turn in raw["conversations"] if isinstance(turn, Mapping)]
        if len(turns) == len(raw["conversations"]) and all(isinstance(turn.get("value"), str) for turn in turns):
            raw["conversations"] = turns
            _mend_turns(turns, note)
            _mend_image_tokens(raw, turns, note)
        self._mend_paths(raw, note)
        return raw

    def _mend_id(self, raw: dict[str, Any], number: int, note: Any) -> None:
        before = raw.get("id")
        name = f"record-{number}" if before is None else str(before)
        name = unused_name(name, self._ids)
        if name != before:
            raw["id"] = name
            note("id", before, name)

    def _mend_paths(self, raw: dict[str, Any], note: Any) -> None:
        """Write the path under which the image really is."""
        image = raw.get("image")
        if self.images is None or not isinstance(image, str):
            return
        path = self.images.find(image)
        if path is not None and path != self.images.root / image:
            raw["image"] = path.relative_to(self.images.root).as_posix()
            note("image-path", image, raw["image"])


def _mend_turns(turns: list[dict[str, Any]], note: Any) -> None:
    """Speakers by their usual names, no white space at the edges, a question first and an answer last."""
    for turn in turns:
        told = turn.get("from")
        role = ROLES.get(told, told) if isinstance(told, str) else told
        if role != told:
            note("speaker", told, role)
            turn["from"] = role
        clean = turn["value"].strip()
        if clean != turn["value"]:
            note("edge-whitespace", turn["value"], clean)
            turn["value"] = clean
    if turns and turns[0].get("from") == "gpt":
        note("leading-answer-removed", turns.pop(0), None)
    if turns and turns[-1].get("from") == "human":
        note("open-question-removed", turns.pop(), None)


def _mend_image_tokens(raw: dict[str, Any], turns: list[dict[str, Any]], note: Any) -> None:
    """With one image: exactly one `<image>`, where the first one was, or in front of the first question."""
    shown = sum(turn["value"].count(IMAGE) for turn in turns)
    if not isinstance(raw.get("image"), str) or not turns or shown == 1 and IMAGE not in "".join(_answers(turns)):
        return
    before = [turn["value"] for turn in turns]
    for turn in turns:
        turn["value"] = turn["value"].replace(IMAGE, "").strip()
    turns[0]["value"] = f"{IMAGE}\n{turns[0]['value']}"
    note("image-tokens", before, turns[0]["value"])


def _answers(turns: list[dict[str, Any]]) -> list[str]:
    return [turn["value"] for turn in turns if turn.get("from") == "gpt"]
