"""The generated web: a URL table with noisy alt texts, the files behind it, and everything else that the web serves.

`web/routes.json` is {host: {path: route}}; `refused.scenes.test` is not in it: nothing listens there. A route is
{status, file, content_type, delay_s, truncate, headers}: `file` is relative to `web/`, `truncate` is the number of
bytes sent before the connection is cut (the announced length stays that of the whole file).

What is wrong with each URL is written to `raw/urls/truth.parquet` (row, URL, kind, seed of the scene), so that what a
download and a filter find can be held against what was planted.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets._scenes_draw import draw, jpeg, png
from llavaflow.datasets._scenes_files import WorldFiles
from llavaflow.datasets.scenes import Scene, scene
from llavaflow.infra.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

# shares of the URL table by what is planted; the rest is good
DIRT = {
    "mismatched": 0.08,
    "exact-duplicate": 0.025,
    "near-duplicate": 0.025,
    "not-found": 0.02,
    "gone": 0.01,
    "server-error": 0.005,
    "refused": 0.01,
    "html": 0.015,
    "truncated": 0.01,
    "corrupt": 0.01,
    "wrong-extension": 0.015,
    "tiny": 0.01,
    "extreme-aspect": 0.01,
    "opted-out": 0.01,
    "slow": 0.0025,
    "same-url": 0.005,
    "bad-url": 0.0015,
    "private-address": 0.0015,
}
# each kind of dirt once, and a good picture that others copy
FEWEST_URLS = len(DIRT) + 2
SLOW_S = 30.0
_PLAIN_ROUTE: dict[str, Any] = {
    "status": 200, "file": None, "content_type": "image/jpeg", "delay_s": 0, "truncate": None, "headers": {},
}  # fmt: skip
_NOISE = (
    "{}", "{}", "{}", "{}.", "{} - stock photo", "{} | Shape Shop", "Photo of {}", "{} wallpaper free download",
    "Buy {} online", "IMG_{number} {}", "  {} ", "{} &amp; more",
)  # fmt: skip


@dataclass
class _Web:
    """Routes and table rows in the making."""

    routes: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    truth: list[dict[str, Any]] = field(default_factory=list)

    def serve(self, host: str, path: str, **route: Any) -> str:
        self.routes.setdefault(host, {})[path] = {**_PLAIN_ROUTE, **route}
        return f"http://{host}{path}"

    def row(self, url: str, text: str, kind: str, seed: str) -> None:
        self.truth.append({"row": len(self.rows), "URL": url, "kind": kind, "seed": seed})
        self.rows.append({"URL": url, "TEXT": text})


def write_web(files: WorldFiles, *, seed: int, urls: int, side: int) -> dict[str, int]:
    """The URL table and the web behind it. Returns how often each kind was planted.

    Raises InputError for a table without room for every kind of dirt and a good picture to copy.
    """
    rng = random.Random(f"web/{seed}")
    if urls < FEWEST_URLS:
        raise InputError(f"a web of {urls} URLs has no room for all its kinds of dirt: give at least {FEWEST_URLS}.")
    kinds = [kind for kind, share in DIRT.items() for _ in range(max(1, round(share * urls)))]
    kinds += ["good"] * (urls - len(kinds))
    rng.shuffle(kinds)
    kinds.sort(key=lambda kind: kind in ("exact-duplicate", "near-duplicate", "same-url"))
    web = _Web()
    for number, kind in enumerate(kinds):
        _plant(files, web, rng, number, kind, f"{seed}/web/{number}", side)
    order = rng.sample(range(urls), urls)
    rows = [web.rows[position] for position in order]
    truth = [{**web.truth[position], "row": row} for row, position in enumerate(order)]
    files.write("web/routes.json", json.dumps(web.routes, indent=1).encode())
    files.url_table("raw/urls/urls.parquet", rows)
    files.write("raw/urls/truth.parquet", _parquet(truth))
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _plant(files: WorldFiles, web: _Web, rng: random.Random, number: int, kind: str, seed: str, side: int) -> None:
    """One row of the table, and what its URL answers."""
    picture = scene("train", seed, side=side)
    text = alt_text(picture, rng)
    path = f"/{number // 100:03d}/{number:06d}.jpg"
    host = rng.choice(("images.scenes.test", "cdn.scenes.test", "photos.scenes.test"))
    if kind in ("exact-duplicate", "near-duplicate", "same-url"):
        first = rng.choice([entry for entry in web.truth if entry["kind"] == "good"])
        picture, seed = scene("train", first["seed"], side=side), first["seed"]
        text = alt_text(picture, rng)
        if kind == "same-url":
            web.row(first["URL"], text, kind, seed)
            return
    if kind == "mismatched":
        text = alt_text(unlike(picture, seed, side), rng)
    if kind in _ANSWERS:
        web.row(_ANSWERS[kind](web, path), text, kind, seed)
        return
    data, content_type, route = _body(kind, draw(picture), rng)
    suffix = content_type.partition("/")[2].replace("jpeg", "jpg")
    if kind != "wrong-extension":
        path = path.replace(".jpg", f".{suffix}")
    name = f"files{path}"
    files.write(f"web/{name}", data)
    web.row(web.serve(host, path, file=name, content_type=content_type, **route), text, kind, seed)


_ANSWERS: dict[str, Callable[[_Web, str], str]] = {
    "not-found": lambda web, path: web.serve("dead.scenes.test", path, status=404, content_type="text/plain"),
    "gone": lambda web, path: web.serve("dead.scenes.test", path, status=410, content_type="text/plain"),
    "server-error": lambda web, path: web.serve("dead.scenes.test", path, status=503, content_type="text/plain"),
    "refused": lambda web, path: f"http://refused.scenes.test{path}",
    "bad-url": lambda web, path: "UNLIKELY",
    "private-address": lambda web, path: f"http://127.0.0.1:9{path}",
}


def _body(kind: str, image: Image.Image, rng: random.Random) -> tuple[bytes, str, dict[str, Any]]:
    """What is sent for a URL that answers 200: bytes, content type, and the rest of its route."""
    data, content_type = _encoded(image, rng)
    if kind == "exact-duplicate":
        # the same pixels as the first copy and, for most, the same bytes
        return jpeg(image), "image/jpeg", {}
    if kind == "near-duplicate":
        wide, high = image.size
        return jpeg(image.resize((wide * 9 // 8, high * 9 // 8)), quality=80), "image/jpeg", {}
    if kind == "html":
        return b"<!doctype html><title>Sign in</title><p>Please sign in to see this picture.</p>", "text/html", {}
    if kind == "truncated":
        data = jpeg(image)
        return data, "image/jpeg", {"truncate": len(data) // 2}
    if kind == "corrupt":
        data = jpeg(image)
        return data[: len(data) // 3] + bytes(rng.randrange(256) for _ in range(40)), "image/jpeg", {}
    if kind == "wrong-extension":
        return png(image), "image/png", {}
    if kind == "tiny":
        return png(image.resize((6, 6))), "image/png", {}
    if kind == "extreme-aspect":
        return jpeg(image.resize((image.width * 6, image.height // 4))), "image/jpeg", {}
    if kind == "opted-out":
        return data, content_type, {"headers": {"X-Robots-Tag": "noai"}}
    return data, content_type, {"delay_s": SLOW_S} if kind == "slow" else {}


def _encoded(image: Image.Image, rng: random.Random) -> tuple[bytes, str]:
    roll = rng.random()
    if roll < 0.8:
        return jpeg(image), "image/jpeg"
    if roll < 0.95:
        return png(image), "image/png"
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=95)
    return stream.getvalue(), "image/webp"


def alt_text(picture: Scene, rng: random.Random) -> str:
    """A short caption with the noise of alt texts; some tell places."""
    text = say.brief_caption(picture, rng, place=rng.random() < 0.3)
    return rng.choice(_NOISE).format(text, number=rng.randrange(1000, 9999))


def unlike(picture: Scene, seed: str, side: int) -> Scene:
    """Another scene that shares no coloured shape and no word with this one."""
    names = {thing.word or thing.name for thing in picture.things}
    return next(other for other in _others(seed, side) if names.isdisjoint(t.word or t.name for t in other.things))


def _others(seed: str, side: int) -> Iterator[Scene]:
    number = 0
    while True:
        yield scene("train", f"{seed}/other/{number}", side=side)
        number += 1


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()
