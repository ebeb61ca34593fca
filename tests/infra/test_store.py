"""The store on a folder: what is committed is found, what is half-written is not."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from llavaflow.infra import store_local
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext, folder_context
from llavaflow.infra.errors import InputError, StoreError
from llavaflow.infra.store import open_store
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Write(Stage):
    """Writes one file."""

    kind: ClassVar[Kind] = "shards"
    text: str = "hello"
    source: Stage | None = None

    def run(self, ctx: RunContext) -> Artifact:
        (ctx.out / "sub").mkdir(exist_ok=True)
        (ctx.out / "sub" / "a.txt").write_text(self.text)
        (ctx.work / "ledger").write_text("done")
        return ctx.finish({"samples": len(self.text)})


def build(root: Path, stage: Write) -> Artifact:
    return stage.run(folder_context(root, stage))


def test_what_is_committed_is_found_with_its_files_and_facts(tmp_path: Path) -> None:
    built = build(tmp_path, Write())
    store = open_store(tmp_path)
    found = store.find(built.fingerprint)
    assert found == built
    assert found is not None and found.facts == {"samples": 5}
    assert (store.local_path(found) / "sub" / "a.txt").read_text() == "hello"
    assert store.verify(found) == []


def test_the_record_lists_every_file_and_names_no_host(tmp_path: Path) -> None:
    built = build(tmp_path, Write())
    text = (Path(built.uri) / "record.json").read_text()
    record = json.loads(text)
    assert [(f["path"], f["size"]) for f in record["files"]] == [("sub/a.txt", 5)]
    assert record["settings"] == {"text": "hello", "source": None}
    assert record["packages"]["torch"]
    assert str(tmp_path) not in text and os.uname().nodename not in text


def test_scratch_is_removed_once_the_record_is_written(tmp_path: Path) -> None:
    built = build(tmp_path, Write())
    assert not (tmp_path / "scratch" / built.fingerprint).exists()


def test_a_moved_store_still_finds(tmp_path: Path) -> None:
    built = build(tmp_path / "old", Write())
    (tmp_path / "old").rename(tmp_path / "new")
    found = open_store(tmp_path / "new").find(built.fingerprint)
    assert found is not None and found.uri.startswith(str(tmp_path / "new"))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / "record.json").unlink(), "not in the store"),
        (lambda folder: (folder / "record.json").write_text('{"format": 1'), "cannot be read"),
        (lambda folder: (folder / "sub" / "a.txt").unlink(), "sub/a.txt is missing"),
        (lambda folder: (folder / "sub" / "a.txt").write_text("hell"), "has 4 bytes, its record says 5"),
    ],
)
def test_a_damaged_artifact_is_not_trusted_and_is_built_again(tmp_path: Path, damage: object, why: str) -> None:
    built = build(tmp_path, Write())
    assert callable(damage)
    damage(Path(built.uri))
    found, reason = open_store(tmp_path).examine(built.fingerprint)
    assert found is None and why in reason
    assert build(tmp_path, Write()).fingerprint == built.fingerprint
    assert (Path(built.uri) / "sub" / "a.txt").read_text() == "hello"


def test_a_changed_byte_is_seen_by_verify(tmp_path: Path) -> None:
    built = build(tmp_path, Write())
    (Path(built.uri) / "sub" / "a.txt").write_text("jello")
    assert open_store(tmp_path).verify(built) == ["sub/a.txt"]


def test_the_second_commit_of_a_fingerprint_gives_the_first_artifact(tmp_path: Path) -> None:
    slow = folder_context(tmp_path, Write())
    first = build(tmp_path, Write())
    slow.out.mkdir(parents=True)
    (slow.out / "a.txt").write_text("late")
    assert slow.finish({"samples": 0}) == first
    assert (Path(first.uri) / "sub" / "a.txt").read_text() == "hello"


class Killed(BaseException):
    """Stands for kill -9 at a certain write."""


@pytest.mark.parametrize("write", range(2))
def test_a_commit_killed_at_any_write_leaves_nothing_trusted_or_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    real, calls = store_local.write_durably, []

    def dying(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == write + 1:
            raise Killed
        real(path, data)

    ctx = folder_context(tmp_path, Write())
    monkeypatch.setattr(store_local, "write_durably", dying)
    with pytest.raises(Killed):
        Write().run(ctx)
    monkeypatch.undo()
    found = open_store(tmp_path).find(ctx.fingerprint)
    if write == 0:
        assert found is None
        again = folder_context(tmp_path, Write())
        assert (again.out / "sub" / "a.txt").exists() and (again.work / "ledger").exists()
        assert not (again.out / "record.json").exists()
    else:
        assert found is not None and open_store(tmp_path).verify(found) == []


def test_a_commit_killed_before_the_rename_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = folder_context(tmp_path, Write())

    def dying(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(Killed):
            Write().run(ctx)
    assert (ctx.out / "record.json").exists()
    assert open_store(tmp_path).find(ctx.fingerprint) is None
    assert not (folder_context(tmp_path, Write()).out / "record.json").exists()


def test_facts_that_are_not_json_are_refused_before_anything_is_published(tmp_path: Path) -> None:
    ctx = folder_context(tmp_path, Write())
    with pytest.raises((TypeError, ValueError)):
        ctx.finish({"loss": float("nan")})
    assert open_store(tmp_path).find(ctx.fingerprint) is None


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    ctx = folder_context(tmp_path, Write())
    (ctx.out / "link").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="symbolic link"):
        ctx.finish({})


def test_pointers_give_the_newest_first_and_are_written_once(tmp_path: Path) -> None:
    first, second = build(tmp_path, Write(text="one")), build(tmp_path, Write(text="two"))
    store = open_store(tmp_path)
    store.point("local", "write", first)
    assert [p.ref for p in store.history("local", "write")] == [second.ref, first.ref]
    store.point("other", "copy", first)
    assert [p.ref for p in store.history("other", "copy")] == [first.ref]
    assert store.recipes() == {"local": ["write"], "other": ["copy"]}


def test_generations_are_counted_per_base(tmp_path: Path) -> None:
    stage = Write()
    first = stage.run(folder_context(tmp_path, stage))
    base = first.fingerprint
    assert open_store(tmp_path).generation(base) == 0
    second = stage.run(folder_context(tmp_path, stage, generation=1))
    assert second.fingerprint != first.fingerprint and second.generation == 1
    assert open_store(tmp_path).generation(base) == 1


def test_a_place_that_cannot_be_used_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a file stands where a folder is needed") as caught:
        open_store(tmp_path / "file" / "store").check_writable()
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="gs:// is not known"):
        open_store("gs://bucket/prefix")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="permission denied"):
        open_store(tmp_path / "store").check_writable()


def test_a_full_disk_says_so_and_leaves_nothing_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = folder_context(tmp_path, Write())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="the disk is full"):
            Write().run(ctx)
    assert open_store(tmp_path).find(ctx.fingerprint) is None


def test_opening_a_store_touches_nothing(tmp_path: Path) -> None:
    assert open_store(tmp_path / "none").find("0" * 20) is None
    assert not (tmp_path / "none").exists()


def test_an_input_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    source = Write(text="source")
    built = build(tmp_path, source)
    reader = Write(source=source)
    ctx = folder_context(tmp_path, reader, {source: built})
    assert ctx.path(source) == Path(built.uri)
    assert ctx.fingerprint != folder_context(tmp_path, replace(reader, source=None)).fingerprint
