"""References: every way to name an artifact, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from llavaflow.infra.artifact import Artifact
from llavaflow.infra.context import folder_context
from llavaflow.infra.errors import InputError, StoreError
from llavaflow.infra.reference import find_reference
from llavaflow.infra.store import ArtifactStore, open_store
from llavaflow.tests.infra.test_store import Write


@pytest.fixture
def store(store_url: str) -> ArtifactStore:
    return open_store(store_url)


@pytest.fixture
def built(store_url: str) -> Artifact:
    return Write().run(folder_context(store_url, Write()))


def test_every_form_names_the_artifact(store: ArtifactStore, built: Artifact) -> None:
    for text in ("local/write", built.ref, built.ref[:12], built.uri, f"{built.uri}/"):
        assert find_reference(text, store).artifact == built


def test_the_place_of_an_artifact_may_lie_in_another_store(built: Artifact, tmp_path: Path) -> None:
    found = find_reference(built.uri, open_store(tmp_path / "elsewhere"))
    assert found.artifact == built and found.store.url != str(tmp_path / "elsewhere")
    assert (found.path / "sub" / "a.txt").read_text() == "hello"


def test_the_newest_build_is_meant_and_a_damaged_one_passed_over(tmp_path: Path) -> None:
    first, second = (Write(text=text).run(folder_context(tmp_path, Write(text=text))) for text in ("one", "two"))
    assert find_reference("local/write", open_store(tmp_path)).artifact == second
    (Path(second.uri) / "record.json").unlink()
    assert find_reference("local/write", open_store(tmp_path)).artifact == first


def test_digits_that_fit_two_artifacts_are_not_enough(tmp_path: Path) -> None:
    for name in ("ab12", "ab34"):
        (tmp_path / "shards" / name).mkdir(parents=True)
    with pytest.raises(InputError, match="shards:ab fits 2 artifacts .* ab12, ab34. Add digits"):
        find_reference("shards:ab", open_store(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("local/wirte", "unknown stage 'wirte'.*Did you mean write"),
        ("loca/write", "unknown recipe 'loca'.*Did you mean local"),
        ("shard:12", "unknown kind of artifact 'shard'.*Did you mean shards"),
        ("shards:", "lacks a fingerprint"),
        ("shards:zz", "no shards starts with 'zz'.*It has: shards:"),
        ("word", "cannot read 'word' as a reference"),
        ("s3://", "not an artifact of a store"),
    ],
)
def test_a_wrong_reference_says_what_exists(tmp_path: Path, text: str, says: str) -> None:
    Write().run(folder_context(tmp_path, Write()))
    with pytest.raises(InputError, match=says):
        find_reference(text, open_store(tmp_path))


def test_a_folder_that_is_no_artifact_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no record.json in it"):
        find_reference(str(tmp_path), open_store(tmp_path))


def test_an_artifact_that_vanished_is_a_store_error(tmp_path: Path) -> None:
    built = Write().run(folder_context(tmp_path, Write()))
    (Path(built.uri) / "record.json").unlink()
    with pytest.raises(StoreError, match="no longer in the store"):
        open_store(tmp_path).record(built)
