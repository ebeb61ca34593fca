"""RefCOCOg: scored exactly as RefCOCO; the expressions differ, the files do not."""

from __future__ import annotations

from llavaflow.datasets.benchmarks._benchmark import variant
from llavaflow.datasets.benchmarks.refcoco import BENCHMARK as REFCOCO
from llavaflow.datasets.benchmarks.refcoco import reader

BENCHMARK = variant(
    REFCOCO,
    name="refcocog",
    title="RefCOCOg referring expression comprehension (long expressions)",
    read=reader("refcocog"),
)
