"""Machine: what a run is launched on. Chosen with `--machine`, never fingerprinted.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Nodes of one kind: GPUs and memory per node, peak rate per GPU, price."""

    kind: str
    nodes: int = 1
    gpus: int = 0
    cores: int = 2
    gpu_memory_gib: float = 0.0
    memory_gib: float = 8.0
    peak_tflops: float = 0.0
    usd_per_gpu_hour: float = 0.0

    @property
    def ranks(self) -> int:
        """Training workers: one per GPU, on a CPU box two (the least that exercises the distributed path)."""
        return self.nodes * self.gpus if self.gpus else 2 * self.nodes
