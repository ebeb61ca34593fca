"""What a stage fetches from the web and what it leaves in the store: images, bytes, and the share that will be lost.

Counted where a table of addresses is there, otherwise from the archives of the published sets
(`_picture_census.json`). What no set is known for is None. A filter keeps what nobody can foretell: its artifact is at
most what came in. On S3 a published model is held twice, as the training left it and as the page has it; on a disk
the two share their bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from llavaflow.models.sizes import recognise_language
from llavaflow.pipelines._job import read_job, texts
from llavaflow.pipelines._lengths import mixture_of
from llavaflow.stages._stage import Stage
from llavaflow.stages._tasks import KINDS
from llavaflow.stages.base import Base
from llavaflow.stages.caption import Caption
from llavaflow.stages.download import Download
from llavaflow.stages.filter import Filter
from llavaflow.stages.mix import Component, Mix
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.publish import Publish
from llavaflow.stages.synthesize import Synthesize
from llavaflow.stages.train import Train
from llavaflow.stages.zoo_weights import ZooWeights

# pictures of the open web are taken to be as those of LCS-558K, and as many of their addresses to be dead
WEB = "lcs"


@dataclass(frozen=True, kw_only=True)
class Volume:
    """`images`: what the stage gathers, before any is lost; bytes to fetch over the network, and of the artifact.

    expected_loss: the share of the images that will not come.
    """

    images: int | None = None
    fetch_bytes: int | None = None
    expected_loss: float | None = None
    store_bytes: int | None = None
    basis: str = ""


def estimate_volume(stage: Stage) -> Volume:
    """What a stage would fetch and store; everything None where that is not known."""
    if isinstance(stage, Download):
        return _download(stage)
    if isinstance(stage, (Filter, Caption)):
        came = estimate_volume(stage.data)
        left = None if came.images is None else round(came.images * (1 - (came.expected_loss or 0.0)))
        at_most = "at most: what a filter keeps is not known" if isinstance(stage, Filter) else ""
        return Volume(images=left, store_bytes=came.store_bytes, basis=at_most if came.store_bytes else came.basis)
    if isinstance(stage, Synthesize):
        return _synthesis(stage)
    if isinstance(stage, Mix):
        return _of_sets(_mixed(stage.components))
    if isinstance(stage, OwnData):
        mixture = mixture_of(texts(stage))
        return _of_sets(dict.fromkeys(_table()["mixtures"].get(mixture, ())))
    if isinstance(stage, (ZooWeights, Base)):
        return _from_hub(stage)
    if isinstance(stage, (Train, Publish)):
        return Volume(store_bytes=_weights(stage))
    return Volume()


def records_at_most(stage: Stage) -> int | None:
    """The most records that a data stage can give: what a mixture draws, or the images that its captions are of."""
    if isinstance(stage, Mix):
        drawn = [_drawn(component) for component in stage.components]
        return None if None in drawn else sum(count or 0 for count in drawn)
    return estimate_volume(stage).images if isinstance(stage, Caption) else None


def _drawn(component: Component) -> int | None:
    """The number in `first:N`, `end:N` or `random:N`; None for a share, or for all of what is not counted yet."""
    number = component.sampling.rpartition(":")[2]
    asked = _asked(component.data) if isinstance(component.data, Synthesize) else None
    return int(number) if number.isdigit() else asked or component.expected


def _asked(stage: Synthesize) -> int | None:
    """Answers that a synthesis asks for."""
    counts = [getattr(stage, kind) for kind in KINDS]
    return None if None in counts else sum(counts)


@cache
def _table() -> dict[str, Any]:
    """The shipped table: `sets` with files, bytes and source, and the sets behind `parts` and `mixtures`."""
    loaded: dict[str, Any] = json.loads(files("llavaflow.pipelines").joinpath("_picture_census.json").read_text())
    return loaded


def _download(stage: Download) -> Volume:
    if stage.web is not None or isinstance(stage.urls, Stage):
        return Volume(images=getattr(stage.urls, "urls", None))
    named = _table()["mixtures"].get(mixture_of(texts(stage)), ())
    known = _table()["sets"][named[0] if len(named) == 1 else WEB]
    counted, loss = _rows(stage.urls), known.get("dead", 0.0)
    images = counted if counted is not None else known["files"] if len(named) == 1 else None
    if images is None:
        return Volume(expected_loss=loss, basis="the addresses of its table cannot be counted yet")
    arrive = round(images * (1 - loss)) * known["bytes"]
    return Volume(
        images=images, fetch_bytes=arrive, store_bytes=arrive, expected_loss=loss, basis=f"images: {known['source']}"
    )


def _rows(table: Path) -> int | None:
    """The addresses of a table; None where there is none or where only reading all of it would tell."""
    if not table.is_file() or table.suffix != ".parquet":
        return None
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import read_metadata

    try:
        return int(read_metadata(table).num_rows)
    except (ArrowInvalid, OSError):
        return None


def _synthesis(stage: Synthesize) -> Volume:
    asked = _asked(stage)
    return Volume() if isinstance(stage.data, Stage) or asked is None else _of_sets({"coco": asked})


def _mixed(components: Iterable[Component]) -> dict[str, int | None]:
    """The sets behind the components, with the records that speak of them: an image may have several.

    Nothing where a stage of the recipe makes the pictures: those of a toy are not COCO's.
    """
    found: dict[str, int | None] = {}
    for component in components:
        made = component.data if isinstance(component.data, Stage) else None
        if made is not None and not (isinstance(made, Synthesize) and isinstance(made.data, Path)):
            return {}
        name = _table()["parts"].get(component.name)
        if name and (component.images is not None or made is not None):
            count, before = component.expected, found.get(name, 0)
            found[name] = None if count is None or before is None else before + count
    return found


def _of_sets(records: Mapping[str, int | None]) -> Volume:
    """The pictures of these sets, each once; no more than the records that speak of it."""
    if not records:
        return Volume()
    sets = {name: _table()["sets"][name] for name in records}
    counts = {name: min(sets[name]["files"], records[name] or sets[name]["files"]) for name in records}
    size = sum(count * sets[name]["bytes"] for name, count in counts.items())
    told = "; ".join(f"{name}: {sets[name]['source']}" for name in counts)
    return Volume(images=sum(counts.values()), store_bytes=size, basis=f"images: {told}")


def _from_hub(stage: ZooWeights | Base) -> Volume:
    """A published model, which comes from the hub unless a copy of it is given."""
    row = stage.row() if isinstance(stage, ZooWeights) else None
    name = row.language if row else stage.hub if isinstance(stage, Base) else None
    language = recognise_language([name or ""])
    if language is None or (row and row.form == "projector"):
        return Volume()
    size, copied = 2 * language.params, isinstance(stage, ZooWeights) and stage.folder is not None
    return Volume(fetch_bytes=None if copied else size, store_bytes=size)


def _weights(stage: Train | Publish) -> int | None:
    """Bytes of the model and projector that a stage leaves."""
    if isinstance(stage, Publish):
        model = estimate_volume(stage.model).store_bytes
        job = read_job(stage.projector) if isinstance(stage.projector, Train) else None
        return None if model is None else model + 2 * (job.projector_parameters if job else 0)
    job = read_job(stage)
    if job is None:
        return None
    each = 4 if stage.precision == "float32" else 2
    whole = job.parameters if stage.trainable != ("mm_projector",) else 0
    return each * (whole + job.adapters + job.projector_parameters)
