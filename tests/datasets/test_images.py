"""Image files: found wherever a folder starts inside the layout, never outside it, and seen for what they are."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from llavaflow.datasets import _images
from llavaflow.datasets._images import ImageFolder, probe, shard_name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images/coco/train2017"
    folder.mkdir(parents=True)
    Image.new("RGB", (30, 20), "red").save(folder / "1.jpg")
    Image.new("P", (30, 20)).save(folder / "2.gif")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    return tmp_path / "images"


@pytest.mark.parametrize("start", ["", "coco", "coco/train2017"])
def test_found_from_any_folder_of_the_layout(root: Path, start: str) -> None:
    assert ImageFolder(root / start).find("coco/train2017/1.jpg") == root / "coco/train2017/1.jpg"


def test_found_under_another_suffix(root: Path) -> None:
    assert ImageFolder(root).find("coco/train2017/2.jpg") == root / "coco/train2017/2.gif"


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "coco/../../secret.jpg", "", "nowhere.jpg"])
def test_nothing_outside_the_root_is_found(root: Path, name: str) -> None:
    assert ImageFolder(root).find(name) is None


def test_probe_decodes_to_the_end(root: Path) -> None:
    data = (root / "coco/train2017/1.jpg").read_bytes()
    good = probe(data)
    assert (good.width, good.height, good.fault) == (30, 20, None)
    assert good.fits("a.jpeg") and not good.fits("a.png")
    assert probe(data[: len(data) // 2]).fault == "broken-image"
    assert probe(b"<html>").fault == "broken-image"
    assert probe(b"").fault == "broken-image"


@pytest.mark.parametrize(("form", "name"), [("TIFF", "a.tif"), ("JPEG2000", "a.jp2"), ("MPO", "a.jpg")])
def test_formats_fit_the_suffixes_that_cameras_and_scanners_write(form: str, name: str) -> None:
    buffer = io.BytesIO()
    picture = Image.new("RGB", (30, 20))
    more = {"save_all": True, "append_images": [picture]} if form == "MPO" else {}
    picture.save(buffer, form, **more)
    look = probe(buffer.getvalue())
    assert look.fault is None and look.fits(name) and not look.fits("a.png")


@pytest.mark.parametrize("start", ["", "coco", "coco/val2014"])
def test_coco_images_are_found_under_their_names_of_2014(tmp_path: Path, start: str) -> None:
    (tmp_path / "coco/val2014").mkdir(parents=True)
    file = tmp_path / "coco/val2014/COCO_val2014_000000000042.jpg"
    file.write_bytes(b"x")
    folder = ImageFolder(tmp_path / start)
    assert folder.find("coco/train2017/000000000042.jpg") == file
    assert folder.find("coco/train2017/000000000043.jpg") is None and folder.find("coco/train2017/42.jpg") is None


def test_several_roots_are_searched_in_their_order(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("1.jpg", "3.jpg"):
        (other / name).write_bytes(b"x")
    folder = ImageFolder(root, other)
    assert folder.find("coco/train2017/1.jpg") == root / "coco/train2017/1.jpg"
    assert folder.find("coco/train2017/3.jpg") == other / "3.jpg"


def test_a_decompression_bomb_is_not_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_images, "MOST_PIXELS", 100)
    found = probe((root / "coco/train2017/1.jpg").read_bytes())
    assert (found.fault, found.detail) == ("image-too-large", "30x20")


@pytest.mark.parametrize(("orientation", "size"), [(1, (30, 20)), (3, (30, 20)), (6, (20, 30)), (8, (20, 30))])
def test_sizes_are_those_of_the_upright_image(orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "JPEG", exif=exif)
    found = probe(buffer.getvalue())
    assert (found.width, found.height) == size and found.fault is None


def test_exif_that_cannot_be_read_turns_nothing() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09")
    assert (probe(buffer.getvalue()).width, probe(buffer.getvalue()).fault) == (30, None)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("coco/train2017/1.jpg", "coco/train2017/1.jpg"),
        ("/abs/a.b.PNG", "abs/a_b.png"),
        ("../up/x", "up/x.jpg"),
        ("win\\dir\\x.jpg", "win/dir/x.jpg"),
    ],
)
def test_names_in_shards_are_plain(name: str, stored: str) -> None:
    assert shard_name(name) == stored
