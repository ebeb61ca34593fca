"""Contamination: drops images that a benchmark also shows, by bytes and by looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llavaflow.datasets._index import IMAGE_SUFFIXES, sha256_bytes
from llavaflow.infra.artifact import Json
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError
from llavaflow.models.pixels import ImageError, open_image
from llavaflow.stages._stage import Stage
from llavaflow.stages.filters._near import fingerprint, near_any, prints
from llavaflow.stages.filters._record_filter import Measure, Picture, RecordFilter, Signal


@dataclass(frozen=True, kw_only=True)
class Contamination(RecordFilter):
    """`images` is a folder of benchmark images: a Path, or a stage with the folder named by `folder`."""

    name: ClassVar[str] = "contamination"

    images: Stage | Path
    folder: str = "eval/images"
    max_distance: int = 2

    def prepare(self, ctx: RunContext) -> dict[str, Json]:
        root = self.images if isinstance(self.images, Path) else ctx.path(self.images) / self.folder
        found = (path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        files = sorted(path for path in found if path.is_file())
        if not files:
            raise InputError(f"no benchmark images under {root}: the contamination filter has nothing to compare with.")
        digests, looks = [], []
        for path in files:
            data = path.read_bytes()
            digests.append(sha256_bytes(data))
            try:
                looks.append(fingerprint(open_image(data)))
            except ImageError as error:
                ctx.log.warning("%s does not decode (%s): compared by its bytes alone", path, error)
        return {"digests": digests, "prints": looks}

    def measurer(self, **prepared: Json) -> Measure:
        digests, known = set(prepared["digests"]), prints(prepared["prints"])

        def measure(pictures: Sequence[Picture]) -> list[Signal]:
            near = near_any(prints([fingerprint(picture.pixels) for picture in pictures]), known, self.max_distance)
            same = (picture.pair.sha256 in digests for picture in pictures)
            return [{"seen": bool(exact or close)} for exact, close in zip(same, near, strict=True)]

        return measure

    def verdict(self, signal: Signal) -> str | None:
        return "in-benchmark" if signal["seen"] else None
