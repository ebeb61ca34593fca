"""Filters at the size of the real sets: a million perceptual hashes, three million captions, and a whole chain.

pytest -m slow tests/bench/test_filters_at_scale.py -s
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

IMAGES = 1_000_000
PLANTED = 20_000
CAPTIONS = 3_000_000
# a third of the pairs in a third of the memory: comparing looks grows faster than their number
PAIRS = 1_000_000


def measured(body: str, *args: str) -> dict[str, Any]:
    """What a fresh process prints as JSON, with its peak memory."""
    done = subprocess.run([sys.executable, "-c", body, *args], capture_output=True, text=True, check=True)
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

CHAIN = f"""
import base64, json, random, resource, sys, time
from pathlib import Path
import numpy as np, orjson
from llavaflow.stages._decide import KEPT, Findings, decide
from llavaflow.stages._pairs import Pairs
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.filter import ledger_writer
from llavaflow.stages.filters.captions import Captions
from llavaflow.stages.filters.clip_score import ClipScore
from llavaflow.stages.filters.concepts import Concepts
from llavaflow.stages.filters.duplicates import Duplicates
from llavaflow.stages.filters.size import Size
root, rng = Path(sys.argv[1]), random.Random(0)
weights = np.cumsum([1 / (n + 1) for n in range(40000)]).tolist()
empty = dict.fromkeys(("filter", "reason", "detail", "signals"))
with ledger_writer(root) as ledger, (root / "findings").open("wb") as findings:
    for number in range({PAIRS}):
        a, b, c = (f"thing{{n}}" for n in rng.choices(range(40000), cum_weights=weights, k=3))
        id, digest = f"{{number:016x}}", f"{{rng.getrandbits(256):064x}}"
        ledger.add({{**empty, "id": id, "url": f"http://images.example.test/{{number // 1000:06d}}/{{id}}.jpg",
            "caption": f"a red {{a}} with {{b}} near {{c}}", "image": f"{{id[:2]}}/{{id}}.jpg", "sha256": digest,
            "status": "ok", "width": rng.randint(50, 900), "height": rng.randint(50, 900)}})
        signals = {{"duplicates": {{"phash": digest[:16], "thumb": base64.b64encode(rng.randbytes(192)).decode()}},
            "clip_score": {{"score": round(rng.random(), 5)}}, "concepts": {{"phrases": ["red " + a, b, c]}}}}
        findings.write(orjson.dumps({{"signals": signals, "failed": None}}) + b"\\n")
start = time.perf_counter()
chain = (Size(), Captions(), Duplicates(), ClipScore(clip=Pretrained(hub="x"), fraction=0.9), Concepts())
decisions = decide(Pairs(root), Findings(root / "findings"), chain)
print(json.dumps({{"seconds": round(time.perf_counter() - start, 1), "pairs": len(decisions.codes),
    "kept": decisions.total(KEPT), "dropped": len(decisions.counts()),
    "gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}}))
"""


def test_a_million_hashes() -> None:
    report = measured(HASHES)
    assert report["seconds"] < 60 and report["recall"] >= 0.99 and report["false_drops"] < 0.001


def test_three_million_captions() -> None:
    report = measured(CONCEPTS)
    assert report["captions"] == CAPTIONS and 0 < report["kept"] < CAPTIONS and report["gib"] < 4


@pytest.mark.timeout(3600)
def test_a_chain_of_filters_over_a_million_pairs(tmp_path: Path) -> None:
    """Deciding with everything measured: what the stage itself holds, beside its workers."""
    report = measured(CHAIN, str(tmp_path))
    assert report["pairs"] == PAIRS and report["dropped"] >= 4 and report["gib"] < 4 * PAIRS / CAPTIONS
