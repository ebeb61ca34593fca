"""The full-size proof of mix665k: exact counts from raw sets of official size, twice the same bytes, near the floor.

    pytest tests/bench/test_mix665k.py -m slow -s

The floor is what cannot be avoided: parsing every input file with orjson and writing the same output once.
`LLAVAFLOW_BENCH_DIR` keeps the generated raw sets for the next run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import raw_sets  # type: ignore[import-not-found]  # noqa: E402
from test_text_to_labels import llama_like  # type: ignore[import-not-found]  # noqa: E402

from llavaflow.datasets._mixture import MIX665K  # noqa: E402
from llavaflow.datasets._records import open_records  # noqa: E402
from llavaflow.infra.context import RunContext  # noqa: E402
from llavaflow.infra.fingerprint import sha256_file  # noqa: E402
from llavaflow.infra.identity import Identity  # noqa: E402
from llavaflow.infra.machine import Machine  # noqa: E402
from llavaflow.infra.store import open_store  # noqa: E402
from llavaflow.pipelines._cli._data_check import count_findings  # noqa: E402
from llavaflow.stages._check import Gate, Rules, census  # noqa: E402
from llavaflow.stages.mix import Mix, published_components  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
OUTPUTS = ("data.jsonl", "llava_mix.json", "index.parquet", "images.parquet", "README.md")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    kept = os.environ.get("LLAVAFLOW_BENCH_DIR")
    root = Path(kept) if kept else tmp_path_factory.mktemp("raw")
    if not (root / "vg/held_out.json").exists():
        raw_sets.write_all(root)
    yield root
    if not kept:
        shutil.rmtree(root)


def build(raw: Path, folder: Path) -> Path:
    """One mixture in a store of its own; the folder of its artifact."""
    store = open_store(str(folder))
    parts = published_components(MIX665K, raw=raw, instruct=raw / "llava-instruct/llava_instruct_150k.json")
    stage = Mix(components=parts, strict=True)
    scratch = store.scratch("bench")
    ctx = RunContext(
        store=store, machine=Machine(kind="cpu"), recipe="bench", run_id="bench", stage="mix", kind="mixture",
        fingerprint="bench", out=scratch.out, work=scratch.work, identity=Identity(type="Mix"),
    )  # fmt: skip
    return store.local_path(stage.run(ctx))


def parse_and_write(raw: Path, built: Path, out: Path) -> None:
    """The floor."""
    for file in sorted(raw.rglob("*.json")):
        orjson.loads(file.read_bytes())
    for name in OUTPUTS:
        shutil.copyfile(built / name, out / name)


def check_all(file: Path) -> None:
    """The gate without images and with estimated lengths, as `pipeline data check` runs it."""
    gate = Gate(rules=Rules())
    document = count_findings(gate, open_records(file).rows(), None)
    assert document["samples"] == census(gate.lengths)["records"] == 665_298 and not document["errors"]


def parse_lines(file: Path) -> None:
    """The floor of a check."""
    with file.open("rb") as stream:
        for line in stream:
            orjson.loads(line)


class Cost(NamedTuple):
    """What a call took: seconds by the wall and of processors, and the peak of its memory in GiB."""

    seconds: float
    processor_s: float
    peak_gib: float


def measured(work: Callable[..., Any], *args: Any) -> Cost:
    """The cost of a call, in a process of its own."""
    queue: Any = multiprocessing.get_context("fork").Queue()

    def run() -> None:
        started, processor = time.perf_counter(), time.process_time()
        work(*args)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        queue.put((time.perf_counter() - started, time.process_time() - processor, peak))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == 0
    return Cost(*queue.get())


@pytest.fixture(scope="module")
def built(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Cost]]:
    """The mixture, built once for all that is measured on it, and what it took."""
    root = tmp_path_factory.mktemp("one")
    yield root / "mixture/bench", measured(build, raw, root)
    shutil.rmtree(root)


def test_mix665k_from_official_raw_sizes(raw: Path, built: tuple[Path, Cost], tmp_path: Path) -> None:
    first, (seconds, _, peak_gib) = built
    facts = json.loads((first / "record.json").read_text())["facts"]
    assert {part["name"]: part["samples"] for part in facts["components"]} == {
        part.name: part.expected for part in MIX665K.parts
    }
    assert facts["samples"] == 665_298 and facts["with_image"] == 624_610
    floor, *_ = measured(parse_and_write, raw, first, tmp_path)
    print(f"\nbuild {seconds:.1f} s, floor {floor:.1f} s, ratio {seconds / floor:.2f}, peak {peak_gib:.2f} GiB")
    ratio = check_ratio(first / "data.jsonl")
    second = build(raw, tmp_path / "two")
    assert [sha256_file(first / name) for name in OUTPUTS] == [sha256_file(second / name) for name in OUTPUTS]
    assert seconds <= 2.5 * floor and peak_gib < 4
    assert ratio <= 10


def test_exact_lengths_and_labels_of_all_records(built: tuple[Path, Cost]) -> None:
    """The option that needs a tokenizer, on all cores; timed apart, held against nothing but its own findings."""
    file = built[0] / "data.jsonl"
    with file.open("rb") as stream:
        heads = [orjson.loads(line) for line in islice(stream, 3000)]
    tokenizer = llama_like([turn["value"] for record in heads for turn in record["conversations"]])
    gate = Gate(rules=Rules(tokenizer=tokenizer))
    started = time.perf_counter()
    document = count_findings(gate, open_records(file).rows(), None)
    print(f"\nexact lengths and labels of {document['samples']:,} records: {time.perf_counter() - started:.0f} s")
    assert document["samples"] == census(gate.lengths)["records"] == 665_298 and not document["errors"]


def check_ratio(file: Path) -> float:
    """The gate over parsing, in processor time: both are one process, and what runs beside them counts little then."""
    before, check, after = (measured(work, file) for work in (parse_lines, check_all, parse_lines))
    floor = (before.processor_s + after.processor_s) / 2
    ratio = check.processor_s / floor
    print(
        f"check {check.processor_s:.1f} s ({check.seconds:.1f} s by the wall), parsing {floor:.1f} s, "
        f"ratio {ratio:.1f}, peak {check.peak_gib:.2f} GiB"
    )
    return ratio


def one_more(document: Any, name: str) -> Any:
    """A raw document with one record more, on an image or a conversation of its own."""
    extra = json.loads(orjson.dumps(document[-1] if isinstance(document, list) else document))
    if name == "aokvqa":
        return [*document, {**extra, "question_id": "new", "image_id": 1}]
    if name == "sharegpt":
        talk = [{"from": "human", "value": "A new question?"}, {"from": "gpt", "value": "A new answer."}]
        return [*document, {"id": "new", "conversations": talk}]
    return [*document, {**extra, "id": "new"}]


@pytest.mark.parametrize(("name", "more"), [("aokvqa", 4), ("sharegpt", 1), ("llava-instruct", 1)])
def test_one_raw_record_more_changes_the_count(raw: Path, tmp_path: Path, name: str, more: int) -> None:
    from llavaflow.datasets._source import Reading, source

    part = MIX665K.part(name)
    file = next((raw / name).glob("*.json"))
    changed = tmp_path / file.name
    changed.write_bytes(orjson.dumps(one_more(orjson.loads(file.read_bytes()), name)))
    samples = sum(sample.dropped is None for sample in source(part.source).read(changed, Reading()))
    assert samples == (part.expected or 0) + more
