"""`pipeline ui`: the lineage pages by request, and both servers once for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from starlette.testclient import TestClient

from llavaflow.infra.lineage import build_graph
from llavaflow.infra.store import ArtifactStore
from llavaflow.pipelines._lineage_layout import lay_out
from llavaflow.pipelines._lineage_page import lineage_app
from llavaflow.pipelines._recipe import Recipe
from llavaflow.tests.pipelines.conftest import TOY, Command
from llavaflow.tests.pipelines.runs import make


@pytest.fixture
def client(toy: Recipe, store: ArtifactStore) -> TestClient:
    make(toy, store)
    return TestClient(lineage_app(store, "http://127.0.0.1:4200"), base_url="http://127.0.0.1")


def test_what_an_artifact_is_made_from_stands_left_of_it(client: TestClient, store: ArtifactStore) -> None:
    graph = build_graph(store.records())
    x = {place.node.stage: place.x for place in lay_out(graph).places}
    assert x["draw"] < x["scale"] < x["learn"] < x["score"]


def test_the_page_draws_every_artifact_and_links_to_its_record(client: TestClient, store: ArtifactStore) -> None:
    page = client.get("/").text
    for record in store.records():
        assert f"/artifact/{record.fingerprint}" in page
    assert "http://127.0.0.1:4200" in page


def test_an_artifact_has_an_address_with_its_facts_settings_and_files(client: TestClient, store: ArtifactStore) -> None:
    fingerprint = store.history("toy", "draw")[0].fingerprint
    page = client.get(f"/artifact/{fingerprint}").text
    assert "toy/draw" in page and "too-small" in page and "numbers.json" in page and "sleep_s" in page
    assert client.get(f"/artifact/{fingerprint}/files/numbers.json").json()[0] == 0


@pytest.mark.parametrize(
    "path", ["/artifact/nothing", "/artifact/{}/files/record.json", "/artifact/{}/files/../secret"]
)
def test_what_no_record_lists_cannot_be_asked_for(client: TestClient, store: ArtifactStore, path: str) -> None:
    fingerprint = store.history("toy", "draw")[0].fingerprint
    assert client.get(path.format(fingerprint)).status_code == 404


def test_a_foreign_name_for_loopback_is_refused(client: TestClient) -> None:
    assert client.get("/", headers={"host": "elsewhere.test"}).status_code == 400


def test_texts_from_a_record_cannot_become_markup(toy: Recipe, store: ArtifactStore) -> None:
    make(toy.replace({"scale": {"rules": (type(toy.stages["scale"]).rules[0],)}}, name="<b>toy</b>"), store)
    page = TestClient(lineage_app(store), base_url="http://127.0.0.1").get("/").text
    assert "<b>toy" not in page and "&lt;b&gt;toy" in page


def test_an_empty_store_says_what_to_do(store: ArtifactStore) -> None:
    page = TestClient(lineage_app(store), base_url="http://127.0.0.1").get("/").text
    assert "pipeline run llava15-tiny" in page


def test_both_servers_answer_and_end_with_the_command(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    command = [sys.executable, "-m", "llavaflow.pipelines", "ui", "--store", str(tmp_path / "store"), "--json"]
    ports = ["--port", "0", "--lineage-port", "0"]
    ui = subprocess.Popen(command + ports, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    try:
        assert ui.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = ui.stdout.readline()
            assert line, "the command ended without its addresses"
            text += line
        told = json.loads(text)
        assert urlopen(f"{told['prefect']}/api/health").status == 200
        assert b"llavaflow" in urlopen(told["lineage"]).read()
    finally:
        ui.send_signal(signal.SIGINT)
    assert ui.wait(timeout=60) == 130
    with pytest.raises(OSError):
        urlopen(f"{told['prefect']}/api/health")


@pytest.mark.parametrize(("cron", "zone", "told"), [("nonsense", "UTC", "nonsense"), ("0 3 * * 1", "Mars/X", "Mars/X")])
def test_a_schedule_that_cannot_be_read_is_refused_before_a_server_starts(
    pipeline: Command, cron: str, zone: str, told: str
) -> None:
    refused = pipeline("deploy", TOY, "--cron", cron, "--timezone", zone)
    assert refused.code == 2 and told in refused.err and "Write five fields" in refused.err
