"""Download: real img2dataset over real HTTP on loopback. What succeeds is kept, what fails says why, nothing twice."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llavaflow.datasets._index import IndexWriter, read_index, read_row, sha256_bytes
from llavaflow.datasets._shards import ImageTable, read_shards
from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.infra.machine import Machine
from llavaflow.stages import _fetch
from llavaflow.stages._reasons import histogram, is_transient, reason_of
from llavaflow.stages._url_table import read_urls
from llavaflow.stages._web import WorldWeb
from llavaflow.stages.download import Download, as_shown

HOST = "http://images.scenes.test"
GOOD = 24


def picture(seed: int, size: tuple[int, int] = (40, 30), format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def world(*, healed: bool = False, extra: int = 0) -> Callable[[Path], None]:
    """A world with good images, every kind of failure, a repeated URL; `healed`: the failing server is back."""
    served: dict[str, dict[str, Any]] = {f"/{n}.jpg": {"file": f"{n}.jpg"} for n in range(GOOD + extra)}
    served |= {
        "/png": {"file": "real.png", "content_type": "image/png"},
        "/page.jpg": {"file": "page.html", "content_type": "text/html"},
        "/private.jpg": {"file": "0.jpg", "headers": {"X-Robots-Tag": "noai"}},
        "/cut.jpg": {"file": "1.jpg", "truncate": 300},
        "/slow.jpg": {"file": "2.jpg", "delay_s": 4},
        "/tiny.jpg": {"file": "tiny.jpg"},
        "/bomb.png": {"file": "bomb.png", "content_type": "image/png"},
        "/down.jpg": {"file": "3.jpg", "status": 200} if healed else {"file": None, "status": 503},
        "/inside": {"file": None, "status": 302, "headers": {"Location": "http://127.0.0.1:9/x.jpg"}},
    }
    urls = [HOST + path for path in served] + [
        f"{HOST}/0.jpg",
        f"{HOST}/gone.jpg",
        "http://no.invalid/a.jpg",
        "nonsense",
    ]

    def write(root: Path) -> None:
        web = root / "web"
        web.mkdir()
        for n in range(GOOD + extra):
            (web / f"{n}.jpg").write_bytes(picture(n))
        (web / "real.png").write_bytes(picture(99, format="PNG"))
        (web / "tiny.jpg").write_bytes(picture(98, (8, 8)))
        # 400 million pixels in 50 kB
        Image.new("1", (20_000, 20_000)).save(web / "bomb.png", optimize=True)
        (web / "page.html").write_text("<html>not here</html>")
        (web / "routes.json").write_text(json.dumps({"images.scenes.test": served}))
        (root / "raw/urls").mkdir(parents=True)
        table = pa.table({"URL": urls, "TEXT": [f"caption {n}" for n in range(len(urls))]})
        pq.write_table(table, root / "raw/urls/urls.parquet")
        with IndexWriter(root) as index:
            for row, url in enumerate(urls):
                index.add(f"url-{row}", source="url-table", url=url, file="raw/urls/urls.parquet", row=row)

    return write


def stage(given: Any, **fields: Any) -> Download:
    return Download(
        **{"urls": given, "web": given, "timeout_s": 2, "retries": 0, "min_side_px": 16, "images_per_shard": 10}
        | fields
    )


EXPECTED = {
    "dns": 1,
    "http-404": 1,
    "http-503": 1,
    "malformed-url": 1,
    "not-an-image": 1,
    "opted-out": 1,
    "private-address": 1,
    "repeated-url": 1,
    "timeout": 1,
    "too-many-pixels": 1,
    "too-small": 1,
    "truncated": 1,
}


def test_downloads_and_refreshes_only_what_failed_or_is_new(bench: Any) -> None:
    old_world = bench.given("world", world())
    first = bench.run(stage(old_world))
    assert first.facts["dropped"] == EXPECTED
    assert first.facts["samples"] == GOOD + 1 and first.facts["urls"] == GOOD + 13 - 1
    card = bench.card(first)
    assert f"{GOOD + 1} images of {GOOD + 12} distinct URLs" in card and "- http-404: 1" in card
    check_records(bench.path(first), bench.built[old_world].fingerprint)

    new_world = bench.given("world-2", world(healed=True, extra=3))
    second = bench.run(stage(new_world), previous=first)
    assert second.facts["reused"] == GOOD + 1
    assert second.facts["samples"] == GOOD + 1 + 1 + 3
    assert "http-503" not in second.facts["dropped"]
    old, new = ImageTable(bench.path(first)), ImageTable(bench.path(second))
    assert set(old) < set(new) and all(old.open(name) == new.open(name) for name in old)


def check_records(root: Path, world_fingerprint: str) -> None:
    """Every URL of the table is in the index, with a parent and a place whose digest is right."""
    rows = read_index(root).to_pylist()
    assert len(rows) == GOOD + 13
    for row in rows:
        assert row["parents"][0].startswith(f"{world_fingerprint}:url-")
        if row["dropped"] != "repeated-url":
            assert sha256_bytes(read_row(root, row["file"], row["row"])) == row["sha256"]
    samples = list(read_shards(root))
    assert [sample.key for sample in samples] == sorted(sample.key for sample in samples)
    originals = {picture(n) for n in range(GOOD)}
    assert sum(sample.image in originals for sample in samples) == GOOD, "a JPEG keeps its own bytes"
    assert samples[0].meta["caption"].startswith("caption ") and samples[0].meta["url"].startswith(HOST)
    ledger = pq.read_table(root / "ledger.parquet").to_pylist()
    assert {row["reason"] for row in ledger if row["status"] == "failed"} == set(EXPECTED) - {"repeated-url"}


def test_too_few_successes_fail_with_the_histogram_and_a_second_run_retries(bench: Any) -> None:
    def broken(root: Path) -> None:
        world()(root)
        routes = root / "web/routes.json"
        table = json.loads(routes.read_text())
        for n in range(GOOD):
            table["images.scenes.test"][f"/{n}.jpg"] = {"file": None, "status": 503}
        routes.write_text(json.dumps(table))

    given = bench.given("world", broken)
    download = stage(given, success_floor=0.6)
    with pytest.raises(StageFailed, match=r"only 1 of 36 URLs(.|\n)*http-503 +25"):
        bench.run(download)
    mended = json.loads((bench.path(given) / "web/routes.json").read_text())
    mended["images.scenes.test"] |= {f"/{n}.jpg": {"file": f"{n}.jpg"} for n in range(GOOD)}
    (bench.path(given) / "web/routes.json").write_text(json.dumps(mended))
    assert bench.run(download).facts["samples"] == GOOD + 1


@pytest.mark.slow
def test_groups_are_spread_over_nodes(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llavaflow.infra import ray

    monkeypatch.setattr(_fetch, "URLS_PER_GROUP", 20)
    routes = {f"/{n}.jpg": {"file": "a.jpg"} for n in range(50)}
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a.jpg").write_bytes(picture(1))
    (tmp_path / "web/routes.json").write_text(json.dumps({"127.0.0.1": routes}))
    with WorldWeb(tmp_path / "web") as web:
        urls = [f"http://127.0.0.1:{web.address[1]}/{n}.jpg" for n in range(52)]
        pq.write_table(pa.table({"URL": urls}), tmp_path / "urls.parquet")
        download = Download(urls=tmp_path / "urls.parquet", caption_column=None, allow_hosts=("127.0.0.1",), retries=0)
        one = bench.run(download)
        ctx = replace(bench.context(download, generation=1), machine=Machine(kind="cpu", nodes=2))
        two = download.run(ctx)
        ray.shutdown()
    assert one.facts["samples"] == 50 and one.facts == two.facts
    tars = [(bench.path(artifact) / "shards/00000.tar").read_bytes() for artifact in (one, two)]
    assert tars[0] == tars[1]


DRIVER = """
import sys
from pathlib import Path
from llavaflow.infra.context import RunContext
from llavaflow.infra.machine import Machine
from llavaflow.infra.store import open_store
from llavaflow.stages._web import WorldWeb
from llavaflow.stages.download import Download
table, out, work = map(Path, sys.argv[1:])
Download(urls=table, caption_column=None, allow_hosts=("127.0.0.1",), retries=0, per_host=2).run(RunContext(
    store=open_store(out), machine=Machine(kind="cpu"), recipe="r", run_id="1", stage="download", kind="shards",
    fingerprint="f", out=out, work=work))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_in_the_middle_it_keeps_what_it_has_and_leaves_no_process(bench: Any, tmp_path: Path, seed: int) -> None:
    routes = {f"/{n}.jpg": {"file": "a.jpg", "delay_s": 0.05} for n in range(250)}
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a.jpg").write_bytes(picture(1))
    (tmp_path / "web/routes.json").write_text(json.dumps({"127.0.0.1": routes}))
    with WorldWeb(tmp_path / "web") as web:
        urls = [f"http://127.0.0.1:{web.address[1]}/{n}.jpg" for n in range(250)]
        pq.write_table(pa.table({"URL": urls}), tmp_path / "urls.parquet")
        download = Download(
            urls=tmp_path / "urls.parquet", caption_column=None, allow_hosts=("127.0.0.1",), retries=0, per_host=2
        )
        ctx = bench.context(download)
        places = [str(path) for path in (tmp_path / "urls.parquet", ctx.out, ctx.work)]
        killed = subprocess.Popen([sys.executable, "-c", DRIVER, *places])
        shards = ctx.work / "pass-000/000000000/shards"
        while not (shards / "00000_stats.json").exists():
            assert killed.poll() is None
            time.sleep(0.02)
        time.sleep(random.Random(seed).uniform(0, 2))
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        time.sleep(0.5)
        assert str(ctx.work) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        done = 100 * len(list(shards.glob("*_stats.json")))
        assert done < 250, "killed too late to prove anything"
        requests: list[str] = []
        web.on_request = requests.append
        assert download.run(ctx).facts["samples"] == 250
    assert len(requests) == 250 - done, "a shard that was complete is not fetched again"


@pytest.mark.parametrize(
    "message,reason",
    [
        ("HTTP Error 403: Egress refused: private-address", "private-address"),
        ("<urlopen error Tunnel connection failed: 502 Egress failed: dns>", "dns"),
        ("HTTP Error 418: I'm a teapot", "http-418"),
        ("<urlopen error timed out>", "timeout"),
        ("IncompleteRead(300 bytes read, 55 more expected)", "truncated"),
        ("URL can't contain control characters. '/a b.jpg' (found at least ' ')", "malformed-url"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED]>", "tls"),
        ("something new", "other"),
    ],
)
def test_reasons(message: str, reason: str) -> None:
    assert reason_of(message) == reason


def test_sizes_are_those_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG", exif=exif)
    reported = _fetch.Fetched(id="a", reason=None, width=40, height=30)
    shown = as_shown(reported, buffer.getvalue())
    assert (shown.width, shown.height) == (30, 40)
    assert as_shown(reported, b"no image") is reported


def test_what_may_heal() -> None:
    assert [is_transient(name) for name in ("timeout", "http-503", "http-404", "opted-out")] == [
        True,
        True,
        False,
        False,
    ]
    assert histogram({"dns": 1, "http-404": 3}, 8).splitlines()[0].split() == ["http-404", "3", "37.5", "%"]


def test_url_tables_of_every_format_and_broken_ones(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("URL,TEXT\nhttp://b.c/1,one\nhttp://b.c/2,two\nhttp://b.c/1,again\n")
    (tmp_path / "a.tsv").write_text("URL\tTEXT\nhttp://b.c/1\tone\nhttp://b.c/2\ttwo\nhttp://b.c/1\tagain\n")
    lines = [{"URL": f"http://b.c/{n}", "TEXT": text} for n, text in [(1, "one"), (2, "two"), (1, "again")]]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "a.txt").write_text("http://b.c/1\nhttp://b.c/2\nhttp://b.c/1\n")
    reference, repeated = read_urls(tmp_path / "a.csv", "URL", "TEXT")
    assert sorted(entry.caption for entry in reference) == ["one", "two"] and [item.row for item in repeated] == [2]
    assert (
        read_urls(tmp_path / "a.tsv", "URL", "TEXT")[0]
        == reference
        == read_urls(tmp_path / "a.jsonl", "URL", "TEXT")[0]
    )
    # as published: Conceptual Captions without a header, SBU as two lists
    (tmp_path / "cc.tsv").write_text("".join(f"{entry.caption}\t{entry.url}\n" for entry in reference))
    sides = {"image_urls": [e.url for e in reference], "captions": [e.caption for e in reference]}
    (tmp_path / "sbu.json").write_text(json.dumps(sides))
    for name in ("cc.tsv", "sbu.json"):
        assert [entry.url for entry in read_urls(tmp_path / name, "URL", "TEXT")[0]] == [e.url for e in reference]
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(InputError, match="empty.json is no table of addresses and texts"):
        read_urls(tmp_path / "empty.json", "URL", "TEXT")
    assert [entry.id for entry in read_urls(tmp_path / "a.txt", "url", None)[0]] == [entry.id for entry in reference]
    with pytest.raises(InputError, match="no column 'link'.*It has URL, TEXT"):
        read_urls(tmp_path / "a.csv", "link", None)
    with pytest.raises(InputError, match="no URL table"):
        read_urls(tmp_path / "none.parquet", "URL", None)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="cannot read the URL table"):
        read_urls(tmp_path / "bad.parquet", "URL", None)


def test_url_tables_with_odd_texts_lose_no_row(tmp_path: Path) -> None:
    (tmp_path / "inches.tsv").write_text('URL\tTEXT\nhttp://b.c/1\t"5 inch\nhttp://b.c/2\ttwo\nhttp://b.c/3\t6" wide\n')
    found, _ = read_urls(tmp_path / "inches.tsv", "URL", "TEXT")
    assert {entry.caption for entry in found} == {'"5 inch', "two", '6" wide'}
    for name, text in (("years.csv", "URL,TEXT\nhttp://b.c/1,2020\n"), ("y.jsonl", '{"URL":"http://b.c/1","TEXT":2020}')):
        (tmp_path / name).write_text(text)
        assert [entry.caption for entry in read_urls(tmp_path / name, "URL", "TEXT")[0]] == ["2020"]
    (tmp_path / "twice.csv").write_text("URL,TEXT,TEXT\nhttp://b.c/1,one,two\n")
    with pytest.raises(InputError, match="more than one column 'TEXT'"):
        read_urls(tmp_path / "twice.csv", "URL", "TEXT")
    (tmp_path / "latin.txt").write_bytes("http://b.c/café\n".encode("latin-1"))
    with pytest.raises(InputError, match="cannot read the URL table"):
        read_urls(tmp_path / "latin.txt", "url", None)
