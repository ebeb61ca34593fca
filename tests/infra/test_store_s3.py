"""The store on S3, against a real server over HTTP: verified both ways, and never half there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import boto3
import pytest

from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext, folder_context
from llavaflow.infra.errors import StoreError
from llavaflow.infra.store import open_store
from llavaflow.infra.store_s3 import S3Backend
from llavaflow.stages._stage import Stage
from llavaflow.tests.conftest import use_s3
from llavaflow.tests.infra.conftest import CuttingProxy

LARGE = 17 * 2**20


@dataclass(frozen=True, kw_only=True)
class Blob(Stage):
    """Writes one large file, sent in parts, and two small ones."""

    kind: ClassVar[Kind] = "shards"
    size: int = 1000

    def run(self, ctx: RunContext) -> Artifact:
        (ctx.out / "shards").mkdir(exist_ok=True)
        (ctx.out / "shards" / "0.tar").write_bytes(bytes(range(250)) * (self.size // 250))
        (ctx.out / "a.json").write_text("{}")
        (ctx.out / "ü + #1 %20.txt").write_text("odd name")
        (ctx.out / "empty").write_text("")
        return ctx.finish({"samples": 1})


def objects(url: str) -> dict[str, int]:
    return dict(open_store(url).backend.sizes("shards"))


def forget(cache: Path) -> None:
    """Drop the local copies, as on another machine."""
    for folder in cache.glob("*/shards"):
        folder.rename(folder.with_name("forgotten"))


@pytest.mark.parametrize("size", [1000, LARGE])
def test_files_travel_up_and_down_unchanged(s3_url: str, tmp_path: Path, size: int) -> None:
    built = Blob(size=size).run(folder_context(s3_url, Blob(size=size)))
    assert built.uri == f"{s3_url}/shards/{built.fingerprint}"
    forget(tmp_path / "cache")
    store = open_store(s3_url)
    found = store.find(built.fingerprint)
    assert found == built
    data = (store.local_path(found) / "shards" / "0.tar").read_bytes()
    assert hashlib.sha256(data).digest() == hashlib.sha256(bytes(range(250)) * (size // 250)).digest()
    assert store.verify(found) == []
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_corrupted_cache_is_fetched_again(s3_url: str) -> None:
    built = Blob().run(folder_context(s3_url, Blob()))
    cached = open_store(s3_url).local_path(built) / "shards" / "0.tar"
    good = cached.read_bytes()
    cached.write_bytes(b"x" * len(good))
    again = open_store(s3_url).local_path(built) / "shards" / "0.tar"
    assert again.read_bytes() == good


def test_an_unchanged_cache_is_not_fetched_again(s3_url: str) -> None:
    built = Blob().run(folder_context(s3_url, Blob()))
    inode = os.stat(open_store(s3_url).local_path(built) / "shards" / "0.tar").st_ino
    assert os.stat(open_store(s3_url).local_path(built) / "shards" / "0.tar").st_ino == inode


def test_a_corrupted_object_is_refused(s3_url: str, tmp_path: Path) -> None:
    built = Blob().run(folder_context(s3_url, Blob()))
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{built.ref.replace(':', '/')}/a.json", Body=b"[]")
    forget(tmp_path / "cache")
    with pytest.raises(StoreError, match=r"a\.json is damaged: its SHA-256 is not the one in its record"):
        open_store(s3_url).local_path(built)


def test_a_missing_object_makes_the_artifact_untrusted(s3_url: str) -> None:
    built = Blob().run(folder_context(s3_url, Blob()))
    open_store(s3_url).backend.delete(f"shards/{built.fingerprint}/a.json")
    found, why = open_store(s3_url).examine(built.fingerprint)
    assert found is None and "a.json is missing" in why
    assert Blob().run(folder_context(s3_url, Blob())) == built


@pytest.fixture
def proxy(s3_url: str, s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(s3_server, after=2**20, cuts=0)
    use_s3(monkeypatch, proxy.url, tmp_path / "cache")
    yield proxy
    proxy.close()


def test_an_upload_cut_in_the_middle_is_retried(s3_url: str, proxy: CuttingProxy) -> None:
    proxy.cuts_left = 2
    stage = Blob(size=LARGE)
    built = stage.run(folder_context(s3_url, stage))
    assert proxy.cuts_left <= 0
    assert open_store(s3_url).verify(built) == []


def test_an_upload_that_keeps_being_cut_leaves_nothing_trusted_and_is_resumed(s3_url: str, proxy: CuttingProxy) -> None:
    proxy.cuts_left = 10**6
    stage = Blob(size=LARGE)
    ctx = folder_context(s3_url, stage)
    with pytest.raises(StoreError, match="cannot be reached"):
        stage.run(ctx)
    assert open_store(s3_url).find(ctx.fingerprint) is None
    assert (ctx.out / "shards" / "0.tar").stat().st_size == LARGE // 250 * 250
    assert f"{ctx.fingerprint}/record.json" not in objects(s3_url)
    proxy.cuts_left = 0
    built = stage.run(folder_context(s3_url, stage))
    assert open_store(s3_url).verify(built) == []


class Killed(BaseException):
    """Stands for kill -9 before a certain request."""


def test_a_commit_killed_before_any_request_leaves_nothing_trusted_or_everything(s3_url: str) -> None:
    trusted = []
    for survived in range(40):
        stage = Blob(size=1000 + 250 * survived)
        ctx = folder_context(s3_url, stage)
        left = iter(range(survived))

        def before(left: Iterator[int] = left, **_: object) -> None:
            if next(left, None) is None:
                raise Killed

        backend = ctx.store.backend
        assert isinstance(backend, S3Backend)
        events = backend._client.meta.events
        events.register("before-call.s3", before)
        try:
            stage.run(ctx)
        except Killed:
            events.unregister("before-call.s3", before)
            found = ctx.store.find(ctx.fingerprint)
            trusted.append(found is not None)
            assert found is None or ctx.store.verify(found) == []
        else:
            break
    # it was killed at every request up to the last, and trusted only from the record on
    assert trusted == sorted(trusted) and trusted[0] is False and trusted[-1] is True


def test_a_file_that_is_there_already_is_not_sent_again(s3_url: str, tmp_path: Path) -> None:
    stage = Blob()
    ctx = folder_context(s3_url, stage)
    built = stage.run(ctx)
    store = open_store(s3_url)
    store.backend.delete(f"shards/{built.fingerprint}/record.json")
    client = boto3.client("s3")
    bucket, _, prefix = built.uri.removeprefix("s3://").partition("/")
    before = client.head_object(Bucket=bucket, Key=f"{prefix}/a.json")["LastModified"]
    stage.run(folder_context(s3_url, stage))
    assert client.head_object(Bucket=bucket, Key=f"{prefix}/a.json")["LastModified"] == before


def test_a_missing_bucket_is_named(s3_url: str) -> None:
    with pytest.raises(StoreError, match="there is no bucket 'no-such-bucket-here'"):
        open_store("s3://no-such-bucket-here/x").check_writable()
    with pytest.raises(StoreError, match="there is no bucket"):
        open_store("s3://no-such-bucket-here/x").find("0" * 20)


def test_missing_credentials_are_named(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="no AWS credentials were found.*AWS_ACCESS_KEY_ID"):
        open_store(s3_url).check_writable()


def test_an_unreachable_endpoint_is_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"http://127\.0\.0\.1:9 cannot be reached") as caught:
        open_store(s3_url).check_writable()
    assert "\n" not in str(caught.value)
