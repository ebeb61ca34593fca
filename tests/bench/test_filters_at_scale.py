"""Filters at the size of the real sets: a million perceptual hashes, three million captions.

pytest -m slow tests/bench/test_filters_at_scale.py -s
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.slow

IMAGES = 1_000_000
PLANTED = 20_000
CAPTIONS = 3_000_000


def measured(body: str) -> dict[str, Any]:
    """What a fresh process prints as JSON, with its peak memory."""
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(report)
    return report


HASHES = f"""
import json, resource, time
import numpy as np
from llavaflow.stages.filters._near import Prints, duplicates
rng = np.random.default_rng(0)
n, planted = {IMAGES}, {PLANTED}
hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
thumbs = rng.integers(0, 256, (n, 192), dtype=np.uint8)
originals = rng.permutation(n // 2)[:planted]
copies = n // 2 + rng.permutation(n // 2)[:planted]
for copy, original in zip(copies, originals):
    flips = sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 5), replace=False))
    hashes[copy] = hashes[original] ^ np.uint64(flips)
    thumbs[copy] = np.clip(thumbs[original].astype(int) + rng.integers(-9, 10, 192), 0, 255)
start = time.perf_counter()
better = duplicates(Prints(hashes, thumbs), 4)
seconds = time.perf_counter() - start
found = int((better[copies] == originals).sum())
print(json.dumps({{"seconds": round(seconds, 1), "recall": found / planted,
    "false_drops": (int((better >= 0).sum()) - found) / n,
    "gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}}))
"""

CONCEPTS = f"""
import json, random, resource, time
from llavaflow.stages.filters._phrases import rule_phrases
from llavaflow.stages.filters.concepts import balance
rng = random.Random(0)
nouns = [f"thing{{n}}" for n in range(40000)]
weights = [1 / (n + 1) for n in range(40000)]
adjectives = "red old small wooden tall bright".split()
def captions():
    for _ in range({CAPTIONS} // 1000):
        drawn = rng.choices(nouns, weights, k=3000)
        triples = zip(drawn[::3], drawn[1::3], drawn[2::3])
        yield from rule_phrases([f"a {{rng.choice(adjectives)}} {{a}} with {{b}} near {{c}}" for a, b, c in triples])
start = time.perf_counter()
taken = balance(captions(), min_captions=3, max_captions=100, seed=0)
print(json.dumps({{"seconds": round(time.perf_counter() - start, 1), "captions": len(taken), "kept": int(taken.sum()),
    "gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}}))
"""


def test_a_million_hashes() -> None:
    report = measured(HASHES)
    assert report["seconds"] < 60 and report["recall"] >= 0.99 and report["false_drops"] < 0.001


def test_three_million_captions() -> None:
    report = measured(CONCEPTS)
    assert report["captions"] == CAPTIONS and 0 < report["kept"] < CAPTIONS and report["gib"] < 4
