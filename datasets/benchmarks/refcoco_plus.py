"""RefCOCO+: scored exactly as RefCOCO; the expressions differ, the files do not."""

from __future__ import annotations

from llavaflow.datasets.benchmarks._benchmark import variant
from llavaflow.datasets.benchmarks.refcoco import BENCHMARK as REFCOCO

BENCHMARK = variant(REFCOCO, name="refcoco-plus", title="RefCOCO+ referring expressions (no words of place)")
