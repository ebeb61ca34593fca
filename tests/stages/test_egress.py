"""The way out: addresses are checked when the connection is made, on every hop, and answers are bounded."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llavaflow.stages._egress import EgressProxy, _path_of, is_public
from llavaflow.stages._reasons import reason_of
from llavaflow.stages._web import WorldWeb

ROUTES = {
    "images.scenes.test": {
        "/a.jpg": {"file": "a.jpg", "status": 200, "content_type": "image/jpeg", "headers": {"X-Robots-Tag": "noai"}},
        "/cut.jpg": {"file": "a.jpg", "truncate": 5},
        "/slow.jpg": {"file": "a.jpg", "delay_s": 0.4},
        "/gone.jpg": {"file": None, "status": 410},
        "/moved": {"file": None, "status": 302, "headers": {"Location": "http://images.scenes.test/a.jpg"}},
        "/inside": {"file": None, "status": 302, "headers": {"Location": "http://localhost:1/secret"}},
    }
}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WorldWeb]:
    (tmp_path / "a.jpg").write_bytes(b"0123456789")
    (tmp_path / "routes.json").write_text(json.dumps(ROUTES))
    with WorldWeb(tmp_path) as server:
        yield server


def get(proxy: EgressProxy, url: str) -> bytes:
    handlers = urllib.request.ProxyHandler({"http": proxy.url, "https": proxy.url, "ftp": proxy.url})
    with urllib.request.build_opener(handlers).open(url, timeout=5) as answer:
        body: bytes = answer.read()
        return body


def reason(proxy: EgressProxy, url: str) -> str:
    with pytest.raises((OSError, urllib.error.HTTPError)) as failure:
        get(proxy, url)
    return reason_of(str(failure.value))


def test_a_mapped_host_is_served_by_the_world(web: WorldWeb) -> None:
    with EgressProxy(host_map={"scenes.test": web.address}) as proxy:
        assert get(proxy, "http://images.scenes.test/a.jpg") == b"0123456789"
        assert get(proxy, "http://images.scenes.test/moved") == b"0123456789"
        assert reason(proxy, "http://images.scenes.test/gone.jpg") == "http-410"
        assert reason(proxy, "http://images.scenes.test/nowhere.jpg") == "http-404"
        assert proxy.requests == 5
        with pytest.raises(Exception, match="IncompleteRead"):
            get(proxy, "http://images.scenes.test/cut.jpg")


def test_private_addresses_are_refused_on_the_first_hop_and_behind_a_redirect(web: WorldWeb) -> None:
    with EgressProxy(host_map={"scenes.test": web.address}) as proxy:
        for url in (
            f"http://127.0.0.1:{web.address[1]}/a.jpg",
            f"http://localhost:{web.address[1]}/a.jpg",
            "http://[::1]/a.jpg",
            "http://169.254.169.254/latest/meta-data",
            "https://127.0.0.1/a.jpg",
            "http://images.scenes.test/inside",
        ):
            assert reason(proxy, url) == "private-address", url


def test_an_allowed_host_may_be_private(web: WorldWeb) -> None:
    with EgressProxy(allow_hosts=["localhost"]) as proxy:
        # reached: the world knows no such host and says so
        assert reason(proxy, f"http://localhost:{web.address[1]}/a.jpg") == "http-404"
        assert reason(proxy, f"http://127.0.0.1:{web.address[1]}/a.jpg") == "private-address"


def test_names_that_do_not_resolve_and_ports_that_do_not_answer(web: WorldWeb) -> None:
    with EgressProxy(allow_hosts=["127.0.0.1"]) as proxy:
        assert reason(proxy, "http://nowhere.invalid/a.jpg") == "dns"
        assert reason(proxy, "http://127.0.0.1:1/a.jpg") == "connection"
        assert reason(proxy, "ftp://127.0.0.1/a.jpg") == "scheme"
        assert reason(proxy, "http://127.0.0.1:99999/a.jpg") == "malformed-url"


def test_the_address_that_was_checked_is_the_one_that_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a public address at first and a private one from then on (DNS rebinding) gains nothing."""
    answers, reached = iter(["93.184.216.34", "127.0.0.1", "10.0.0.1"]), []

    async def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (next(answers), port))]

    async def connect(address: str, *_: object, **__: object) -> None:
        reached.append(address)
        raise ConnectionRefusedError

    with EgressProxy() as proxy:
        monkeypatch.setattr(proxy._loop, "getaddrinfo", resolve)
        monkeypatch.setattr(asyncio, "open_connection", connect)
        told = [reason(proxy, "http://rebinds.example/a.jpg") for _ in range(3)]
    assert told == ["connection", "private-address", "private-address"] and reached == ["93.184.216.34"]


def test_waiting_for_a_turn_is_not_held_against_a_url(web: WorldWeb) -> None:
    url = "http://images.scenes.test/slow.jpg"
    with EgressProxy(host_map={"scenes.test": web.address}, per_host=1, timeout_s=1.0) as proxy:
        with ThreadPoolExecutor(5) as pool:
            assert list(pool.map(lambda _: get(proxy, url), range(5))) == [b"0123456789"] * 5
    with EgressProxy(host_map={"scenes.test": web.address}, timeout_s=0.1) as proxy:
        assert reason(proxy, url) == "timeout"


def test_an_answer_over_the_limit_is_refused(web: WorldWeb) -> None:
    with EgressProxy(host_map={"scenes.test": web.address}, max_bytes=9) as proxy:
        assert reason(proxy, "http://images.scenes.test/a.jpg") == "too-many-bytes"


@pytest.mark.parametrize(
    "address,public",
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("172.31.255.255", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("::127.0.0.1", False),
        ("fec0::1", False),
        ("64:ff9b:1::a00:1", False),
    ],
)
def test_what_counts_as_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "url,path",
    [
        ("http://a.b", "/"),
        ("http://a.b?x=/1", "/?x=/1"),
        ("http://a.b//c//d.jpg?u=http://e/f#g", "//c//d.jpg?u=http://e/f"),
    ],
)
def test_the_path_goes_out_as_it_was_written(url: str, path: str) -> None:
    assert _path_of(url) == path
