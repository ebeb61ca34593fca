"""Semantic duplicates: of images that CLIP sees as the same thing, one stays (the SemDeDup rule, arXiv 2303.09540).

Embeddings are clustered by k-means. Inside a cluster the pairs are ranked from the farthest to the nearest to the
centroid, and one goes when its cosine with any that ranks before it is above 1 - epsilon: rare views are kept.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from llavaflow.infra.artifact import Json
from llavaflow.infra.context import RunContext
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.filters._clip import Vectors, load_clip
from llavaflow.stages.filters._record_filter import Measure, Measured, Picture, RecordFilter, Signal

ITERATIONS = 20


@dataclass(frozen=True, kw_only=True)
class SemanticDuplicates(RecordFilter):
    """`epsilon` is the cosine distance below which two images are one; clusters hold about `cluster_size` of them."""

    name: ClassVar[str] = "semantic_duplicates"

    clip: Pretrained
    epsilon: float = 0.03
    cluster_size: int = 1000
    seed: int = 0

    def prepare(self, ctx: RunContext) -> dict[str, Json]:
        return {"clip": self.clip.resolve(ctx)}

    def measurer(self, **prepared: Json) -> Measure:
        clip = load_clip(prepared["clip"])

        def measure(pictures: Sequence[Picture]) -> list[Signal]:
            vectors = clip.images([picture.pixels for picture in pictures]).astype("<f2")
            return [{"vector": base64.b64encode(vector.tobytes()).decode()} for vector in vectors]

        return measure

    def choose(self, records: Sequence[Measured]) -> Iterator[tuple[str, str]]:
        if not records:
            return
        packed = (base64.b64decode(record.signals[self.name]["vector"]) for record in records)
        vectors = np.stack([np.frombuffer(data, "<f2").astype(np.float32) for data in packed])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for position in semantic_duplicates(vectors, self.epsilon, self.cluster_size, self.seed):
            yield records[position].pair.id, "semantic-duplicate"


def semantic_duplicates(vectors: Vectors, epsilon: float, cluster_size: int, seed: int) -> NDArray[np.int64]:
    """The positions to drop among unit vectors."""
    centroids, labels = _clusters(vectors, max(1, len(vectors) // cluster_size), seed)
    dropped = [np.empty(0, np.int64)]
    for cluster in range(len(centroids)):
        members = np.flatnonzero(labels == cluster)
        ranked = members[np.argsort(vectors[members] @ centroids[cluster], kind="stable")]
        cosines = np.triu(vectors[ranked] @ vectors[ranked].T, k=1)
        dropped.append(ranked[cosines.max(axis=0, initial=0.0) > 1 - epsilon])
    return np.sort(np.concatenate(dropped))


def _clusters(vectors: Vectors, clusters: int, seed: int) -> tuple[Vectors, NDArray[np.int64]]:
    from scipy.cluster.vq import kmeans2

    centroids, labels = kmeans2(vectors, clusters, iter=ITERATIONS, minit="points", rng=np.random.default_rng(seed))
    return np.asarray(centroids, np.float32), np.asarray(labels, np.int64)
