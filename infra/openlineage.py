"""OpenLineage: the lineage of artifacts in the open event format that Marquez, DataHub and others read.

Events are derived from records when they are asked for, so there is no second truth to keep: one START and one
COMPLETE per artifact, with its inputs and itself as datasets. Field names follow the specification, version 2-0-2.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

from llavaflow.infra.artifact import Json
from llavaflow.infra.record import Record

PRODUCER = "urn:llavaflow"
SPECIFICATION = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
# run ids of OpenLineage are UUIDs; ours become the same UUID every time
RUNS = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)


def events_of(record: Record, namespace: str) -> Iterator[dict[str, Json]]:
    """The two events of one artifact; `namespace` is the URL of its store."""
    inputs = [_dataset(held.ref, namespace) for held in record.identity.inputs.values()]
    outputs = [{**_dataset(record.ref, namespace), "outputFacets": {"outputStatistics": _statistics(record)}}]
    for kind, time in (("START", record.created - record.seconds), ("COMPLETE", record.created)):
        yield {
            "eventType": kind,
            "eventTime": datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "producer": PRODUCER,
            "schemaURL": SPECIFICATION,
            "run": {"runId": str(uuid.uuid5(RUNS, f"{record.run_id}/{record.ref}"))},
            "job": {"namespace": record.recipe, "name": record.stage},
            "inputs": inputs,
            "outputs": outputs if kind == "COMPLETE" else [],
        }


def _dataset(ref: str, namespace: str) -> dict[str, Json]:
    return {"namespace": namespace, "name": ref.replace(":", "/")}


def _statistics(record: Record) -> dict[str, Json]:
    facet: dict[str, Json] = {
        "_producer": PRODUCER,
        "_schemaURL": "https://openlineage.io/spec/facets/1-0-2/OutputStatisticsOutputDatasetFacet.json",
        "size": record.size,
        "fileCount": len(record.files),
    }
    samples = record.facts.get("samples")
    return facet | ({"rowCount": samples} if isinstance(samples, int) else {})
