"""Semantic duplicates: of images that CLIP sees as the same thing, one stays (the SemDeDup rule, arXiv 2303.09540).

Embeddings are clustered by k-means. Inside a cluster the pairs are ranked from the farthest to the nearest to the
centroid, and one goes when its cosine with any that ranks before it is above 1 - epsilon: rare views are kept.

Embeddings lie in a file and are compared tile by tile, so that neither their number nor the size of a cluster (a
million pictures of one logo) decides how much memory is needed.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llavaflow.infra.artifact import Json
from llavaflow.infra.context import RunContext
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.filters._clip import Vectors, load_clip
from llavaflow.stages.filters._record_filter import Measure, Measured, Picture, RecordFilter, Signal

ITERATIONS = 20
# k-means learns from at most so many points of each cluster, drawn by the seed
POINTS_PER_CLUSTER = 256
# side of the tiles in which cosines are computed: 16 MB each
TILE = 2048
Halves = NDArray[np.float16]


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

    def choose(self, records: Iterable[Measured]) -> Iterator[tuple[str, str]]:
        with tempfile.TemporaryFile() as file:
            vectors = _on_disk(file, (record.signals[self.name]["vector"] for record in records))
            if not len(vectors):
                return
            gone = np.zeros(len(vectors), bool)
            gone[semantic_duplicates(vectors, self.epsilon, self.cluster_size, self.seed)] = True
            for record in compress(records, gone):
                yield record.pair.id, "semantic-duplicate"


def _on_disk(file: Any, packed: Iterable[str]) -> Halves:
    """Base64 vectors of one length as rows of a memory-mapped array."""
    sizes = [file.write(base64.b64decode(text)) for text in packed]
    file.flush()
    if not sizes:
        return np.empty((0, 0), np.float16)
    return np.memmap(file, "<f2", "r", shape=(len(sizes), sizes[0] // 2))


def semantic_duplicates(vectors: Halves | Vectors, epsilon: float, cluster_size: int, seed: int) -> NDArray[np.int64]:
    """The positions to drop among vectors, which need not have length 1 exactly."""
    centroids = _centroids(vectors, max(1, len(vectors) // cluster_size), seed)
    labels, nearness = _nearest(vectors, centroids)
    order = np.lexsort((nearness, labels))
    ends = np.cumsum(np.bincount(labels, minlength=len(centroids)))
    dropped = [np.empty(0, np.int64)]
    for start, end in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
        ranked = order[start:end]
        dropped.append(ranked[_too_near(vectors, ranked, 1 - epsilon)])
    return np.sort(np.concatenate(dropped))


def _too_near(vectors: Halves | Vectors, ranked: NDArray[np.int64], limit: float) -> NDArray[np.bool_]:
    """Which members of a cluster are nearer than the limit to one that ranks before them."""
    near = np.zeros(len(ranked), bool)
    for right in range(0, len(ranked), TILE):
        later = _unit(vectors, ranked[right : right + TILE])
        best = np.full(len(later), -1.0, np.float32)
        for left in range(0, right + 1, TILE):
            cosines = _unit(vectors, ranked[left : left + TILE]) @ later.T
            if left == right:
                # -2: a pair that is not to be compared
                cosines[np.tril_indices(len(later))] = -2.0
            np.maximum(best, cosines.max(axis=0), out=best)
        near[right : right + TILE] = best > limit
    return near


def _unit(vectors: Halves | Vectors, places: NDArray[np.int64]) -> Vectors:
    """Some of the vectors, at length 1."""
    found = np.asarray(vectors[places], np.float32)
    unit: Vectors = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def _centroids(vectors: Halves | Vectors, clusters: int, seed: int) -> Vectors:
    from scipy.cluster.vq import kmeans2

    dice = np.random.default_rng(seed)
    places = np.arange(len(vectors))
    if len(places) > POINTS_PER_CLUSTER * clusters:
        places = np.sort(dice.choice(places, POINTS_PER_CLUSTER * clusters, replace=False))
    centroids, _ = kmeans2(_unit(vectors, places), clusters, iter=ITERATIONS, minit="points", rng=dice)
    return np.asarray(centroids, np.float32)


def _nearest(vectors: Halves | Vectors, centroids: Vectors) -> tuple[NDArray[np.int64], Vectors]:
    """The nearest centroid of every vector, and their product with it (large: near)."""
    labels, nearness = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    lengths = (centroids**2).sum(axis=1) / 2
    for start in range(0, len(vectors), TILE):
        places = np.arange(start, min(start + TILE, len(vectors)))
        products = _unit(vectors, places) @ centroids.T
        labels[places] = (products - lengths).argmax(axis=1)
        nearness[places] = products[np.arange(len(places)), labels[places]]
    return labels, nearness
