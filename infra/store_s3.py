"""A store in a bucket, and the only user of boto3. Endpoint, region and credentials come from the AWS variables.

Up: files travel in parallel, large ones in parts, each with a checksum that the server verifies; the record is put
last, so a dropped connection leaves files without a record, which nobody trusts. The next try sends only what is not
there yet with the same SHA-256.

Down: files land in a local cache (`$LLAVAFLOW_CACHE`, else ./.llavaflow/cache) under a temporary name, are compared
with the SHA-256 of the record, and only then renamed. A cached file that changed since is fetched again.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from llavaflow.infra import record as records
from llavaflow.infra.backend import Blob, storage_errors
from llavaflow.infra.errors import InputError, StoreError
from llavaflow.infra.fingerprint import digest, sha256_file
from llavaflow.infra.record import FileEntry
from llavaflow.infra.store_local import remove_tree, write_durably

T = TypeVar("T")
LARGE = 16 * 2**20
FILES_AT_ONCE = 8
LOST_RACE = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409"}
CREDENTIALS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


class S3Backend:
    """Keys are objects under one prefix of one bucket."""

    def __init__(self, url: str) -> None:
        self.bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not self.bucket:
            raise InputError(f"cannot open a store at '{url}': the bucket is missing. Write s3://bucket/prefix.")
        self.prefix = prefix.strip("/")
        self.url = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        # two buckets may hold different bytes under one fingerprint, so each has its own cache
        name = f"{self.bucket}-{digest([self.endpoint, self.url])[:8]}"
        self.cache = Path(os.environ.get("LLAVAFLOW_CACHE") or ".llavaflow/cache").expanduser().resolve() / name

    @property
    def scratch(self) -> Path:
        return self.cache / "scratch"

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"max_attempts": 5, "mode": "standard"},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=4 * FILES_AT_ONCE,
        )
        return boto3.Session().client("s3", config=config)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error, ValueError) as error:
            raise StoreError(f"cannot use the store at {self.url}: {self._reason(error)}.") from error

    def _reason(self, error: Exception) -> str:
        from botocore import exceptions as aws

        code = _code(error)
        if isinstance(error, (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError)):
            return f"no AWS credentials were found in the environment. {CREDENTIALS}"
        if isinstance(error, aws.ProfileNotFound):
            return f"{error}. {CREDENTIALS}"
        lost = (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError)
        if isinstance(error, lost) or isinstance(error.__context__, lost):
            return f"{self.endpoint} cannot be reached. Check AWS_ENDPOINT_URL and the network"
        if code in {"NoSuchBucket", "404"}:
            return f"there is no bucket '{self.bucket}' at {self.endpoint}. Create it, or check --store"
        if code in {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}:
            return f"{self.endpoint} refused these credentials ({code}). {CREDENTIALS} of a user who may read and write"
        return " ".join(str(error).split()).rstrip(".")

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(key)}

    def place(self, prefix: str) -> str:
        return f"{self.url}/{prefix}"

    def read(self, key: str) -> Blob | None:
        from botocore.exceptions import ClientError

        with self._errors():
            try:
                return again(lambda: self._get(key))
            except ClientError as error:
                if _code(error) == "NoSuchKey":
                    return None
                raise

    def _get(self, key: str) -> Blob:
        answer = self._client.get_object(**self._at(key))
        return Blob(data=answer["Body"].read(), tag=answer["ETag"])

    def write(self, key: str, data: bytes) -> None:
        with self._errors():
            self._client.put_object(**self._at(key), Body=data, ChecksumAlgorithm="SHA256")

    def swap(self, key: str, data: bytes, tag: str | None) -> str | None:
        from botocore.exceptions import ClientError

        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        with self._errors():
            try:
                answer = self._client.put_object(**self._at(key), Body=data, **condition)
            except ClientError as error:
                if _code(error) in LOST_RACE:
                    return None
                raise
        return str(answer["ETag"])

    def delete(self, key: str) -> None:
        with self._errors():
            self._client.delete_object(**self._at(key))

    def names(self, prefix: str) -> list[str]:
        found = set()
        for page in self._pages(prefix, Delimiter="/"):
            found |= {entry["Prefix"].rstrip("/") for entry in page.get("CommonPrefixes", [])}
            found |= {entry["Key"] for entry in page.get("Contents", [])}
        return sorted(name.rpartition("/")[2] for name in found)

    def sizes(self, prefix: str) -> Mapping[str, int]:
        start = len(self._key(f"{prefix}/"))
        entries = (entry for page in self._pages(prefix) for entry in page.get("Contents", []))
        return {entry["Key"][start:]: entry["Size"] for entry in entries}

    def _pages(self, prefix: str, **options: str) -> list[dict[str, Any]]:
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2")
            return list(pages.paginate(Bucket=self.bucket, Prefix=self._key(f"{prefix}/"), **options))

    def publish(self, folder: Path, prefix: str, files: Sequence[FileEntry], record: bytes) -> None:
        # a record that stands here was found wanting: it goes first, so that old and new files never mix under it
        self.delete(f"{prefix}/{records.NAME}")
        present = self.sizes(prefix)
        with self._errors(), storage_errors(folder):
            in_parallel(lambda entry: self._send(folder, prefix, entry, present.get(entry.path)), files)
        for stranger in present.keys() - {entry.path for entry in files}:
            self.delete(f"{prefix}/{stranger}")
        self.write(f"{prefix}/{records.NAME}", record)
        self._keep(folder, prefix, files)

    def _send(self, folder: Path, prefix: str, entry: FileEntry, present: int | None) -> None:
        at = self._at(f"{prefix}/{entry.path}")
        if present == entry.size and self._client.head_object(**at)["Metadata"].get("sha256") == entry.sha256:
            return
        metadata = {"sha256": entry.sha256}
        if entry.size < LARGE:
            checksum = base64.b64encode(bytes.fromhex(entry.sha256)).decode()
            with (folder / entry.path).open("rb") as stream:
                self._client.put_object(**at, Body=stream, Metadata=metadata, ChecksumSHA256=checksum)
        else:
            extra = {"Metadata": metadata, "ChecksumAlgorithm": "SHA256"}
            self._client.upload_file(str(folder / entry.path), *at.values(), ExtraArgs=extra, Config=_parts())

    def _keep(self, folder: Path, prefix: str, files: Sequence[FileEntry]) -> None:
        """What was just sent is the cached copy: the next stage reads it without a download."""
        target = self.cache / prefix
        with storage_errors(self.cache):
            remove_tree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
        self._stamp(prefix, files)

    def fetch(self, prefix: str, files: Sequence[FileEntry]) -> Path:
        folder = self.cache / prefix
        stamps = self._stamps(prefix)
        needed = [entry for entry in files if not _is_whole(folder / entry.path, entry, stamps.get(entry.path))]
        with self._errors(), storage_errors(self.cache):
            folder.mkdir(parents=True, exist_ok=True)
            in_parallel(lambda entry: self._receive(folder, prefix, entry), needed)
        if needed:
            self._stamp(prefix, files)
        return folder

    def _receive(self, folder: Path, prefix: str, entry: FileEntry) -> None:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            for _ in range(2):
                again(lambda: self._client.download_file(*self._at(f"{prefix}/{entry.path}").values(), str(part)))
                if sha256_file(part) == entry.sha256:
                    part.replace(target)
                    return
        finally:
            part.unlink(missing_ok=True)
        raise StoreError(
            f"{self.place(prefix)}/{entry.path} is damaged: its SHA-256 is not the one in its record. "
            f"Delete {self.place(prefix)}/{records.NAME} and run again to build it anew."
        )

    def _stamp_file(self, prefix: str) -> Path:
        return self.cache / "verified" / f"{prefix}.json"

    def _stamps(self, prefix: str) -> dict[str, list[int]]:
        try:
            stamps: dict[str, list[int]] = json.loads(self._stamp_file(prefix).read_text())
            return stamps
        except (OSError, ValueError):
            return {}

    def _stamp(self, prefix: str, files: Sequence[FileEntry]) -> None:
        """Remember which cached files were compared with their SHA-256, and what they looked like then."""
        stamps = self._stamps(prefix) | {entry.path: _look(self.cache / prefix / entry.path) for entry in files}
        with storage_errors(self.cache):
            write_durably(self._stamp_file(prefix), json.dumps(stamps).encode())


def _code(error: Exception) -> str:
    answer = getattr(error, "response", None) or getattr(error.__context__, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def _look(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _is_whole(path: Path, entry: FileEntry, stamp: list[int] | None) -> bool:
    """Whether a cached file is the recorded one: unchanged since it was verified, or verified now."""
    if not path.is_file():
        return False
    return _look(path) == stamp or sha256_file(path) == entry.sha256


def _parts() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=LARGE, multipart_chunksize=LARGE, max_concurrency=4)


def again(ask: Callable[[], T], times: int = 3) -> T:
    """Repeat a read whose connection broke while the body was coming: botocore retries only the request."""
    from boto3.exceptions import RetriesExceededError
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    for _ in range(times - 1):
        try:
            return ask()
        except (HTTPClientError, IncompleteReadError, RetriesExceededError):
            continue
    return ask()


def in_parallel(work: Callable[[FileEntry], None], files: Iterable[FileEntry]) -> None:
    """Do the work for every file, several at once; the first failure is raised and cancels what has not begun."""
    with ThreadPoolExecutor(max_workers=FILES_AT_ONCE) as pool:
        jobs = [pool.submit(work, entry) for entry in files]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
