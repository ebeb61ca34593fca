"""Requests to remove: each form finds its pairs and no others, and a list that cannot be read stops before the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from llavaflow.infra.context import folder_context
from llavaflow.infra.errors import InputError
from llavaflow.stages._pairs import Pair
from llavaflow.stages.filter import Filter
from llavaflow.stages.filters._record_filter import Measured
from llavaflow.stages.filters.takedown import Takedown
from llavaflow.stages.own_data import OwnData

DIGEST = "ab" * 32


def measured(id: str, url: str | None, sha256: str = "0" * 64) -> Measured:
    pair = Pair(id=id, image=f"{id}.jpg", caption="a cat", url=url, width=64, height=64, sha256=sha256)
    return Measured(pair=pair, signals={})


def test_each_form_finds_its_pairs(tmp_path: Path) -> None:
    listed = tmp_path / "takedown.txt"
    listed.write_text(f"# asked in May\n\nhttps://a.test/1.jpg\r\nhost:B.test\n  sha256:{DIGEST}  \n", "utf-8-sig")
    records = [
        measured("address", "https://a.test/1.jpg"),
        measured("neighbour", "https://a.test/2.jpg"),
        measured("host", "http://b.test/x"),
        measured("port-and-case", "http://B.TEST:8080/x"),
        measured("subdomain", "https://img.b.test/x"),
        measured("only-ends-alike", "https://notb.test/x"),
        measured("in-the-path", "https://c.test/b.test"),
        measured("bytes", None, DIGEST),
        measured("no-address", None),
    ]
    found = list(Takedown(file=listed).choose(records))
    assert [id for id, _ in found] == ["address", "host", "port-and-case", "subdomain", "bytes"]
    assert {reason for _, reason in found} == {"taken-down"}


@pytest.mark.parametrize("line", ["example.org", "sha256:abc", "host:", "ftp://a.test/1.jpg", "https://a.test/a b"])
def test_a_line_without_a_form_stops_before_anything_is_measured(line: str, tmp_path: Path) -> None:
    listed = tmp_path / "takedown.txt"
    listed.write_text(f"host:a.test\n{line}\n")
    stage = OwnData(file=listed)
    with pytest.raises(InputError, match="takedown.txt, line 2: .*host:NAME"):
        Takedown(file=listed).prepare(folder_context(tmp_path, stage, {}))


def test_the_list_counts_by_content(tmp_path: Path) -> None:
    listed = tmp_path / "takedown.txt"
    stage = Filter(data=OwnData(file=listed), filters=(Takedown(file=listed),))
    assert listed in stage.outside().values()
