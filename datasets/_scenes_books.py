"""OCR-VQA from generated book covers: a title plate, an emblem that tells the genre, and the author's plate.

The covers keep to the held-out rule of the scenes. Some pictures are GIFs (as `.gif`, or under a `.jpg` name) and a
few are missing, as in the real download.
"""

from __future__ import annotations

import io
import random
from typing import Any

from llavaflow.datasets._scenes_draw import draw, jpeg
from llavaflow.datasets._scenes_files import WorldFiles
from llavaflow.datasets.scenes import WORDS, Scene, Thing, palette

GENRES = {
    "circle": "Sports", "square": "Computers", "triangle": "Travel", "star": "Romance", "cross": "Medical",
}  # fmt: skip
_SPLITS = {"train": 1, "val": 2, "test": 3}


def write_ocrvqa(files: WorldFiles, *, seed: int, books: int, side: int) -> None:
    rng = random.Random(f"ocrvqa/{seed}")
    document: dict[str, Any] = {}
    for number in range(books):
        cover = book(f"{seed}/{number}", side)
        image_id = f"{1_400_000_000 + rng.randrange(10**8)}{'X' if number % 9 == 5 else ''}"
        document[image_id] = _record(cover, image_id, rng, "train" if number % 20 else "val")
        if number % 100 == 60:
            continue
        data = _gif(cover) if number % 50 == 30 else jpeg(draw(cover))
        suffix = "gif" if number % 100 == 30 else "jpg"
        files.image("ocrvqa", f"raw/ocrvqa/images/{image_id}.{suffix}", data)
    files.document("ocrvqa", "raw/ocrvqa/dataset.json", document, {"": ("book", None)})


def book(seed: str, side: int) -> Scene:
    """The cover of a book as a scene: title on top, emblem in the middle, author below."""
    rng = random.Random(f"book/{seed}")
    width, height, unit = side, side * 4 // 3, side / 72
    emblem = rng.choice(sorted(GENRES))
    plates = [("sign", "top", 0.16, rng.choice(WORDS)), ("sign", "bottom", 0.84, rng.choice(WORDS))]
    things = []
    for shape, place, down, word in [(emblem, "center", 0.5, ""), *plates]:
        half_width, half_height = (14.5 * unit, 8.5 * unit) if word else (12 * unit, 12 * unit)
        x = round(width * (0.5 + rng.uniform(-0.08, 0.08)), 1)
        y = round(height * down, 1)
        colour = rng.choice(palette(shape, place, "train"))
        things.append(
            Thing(
                shape=shape, colour=colour, place=place, size="large", x=x, y=y, word=word,
                half_width=half_width, half_height=half_height, tone=rng.randint(-14, 14),
            )
        )  # fmt: skip
    background = rng.choice((238, 208, 178)) + rng.randint(-6, 6)
    return Scene(split="train", seed=seed, width=width, height=height, background=background, things=tuple(things))


def _record(cover: Scene, image_id: str, rng: random.Random, split: str) -> dict[str, Any]:
    emblem, title, author = cover.things
    asked = book_questions(cover, rng)
    return {
        "imageURL": f"http://ecx.images-amazon.test/images/I/{image_id}.jpg",
        "questions": [question for question, _ in asked],
        "answers": [answer for _, answer in asked],
        "title": title.word,
        "authorName": author.word,
        "genre": GENRES[emblem.shape],
        "split": _SPLITS[split],
    }


def book_questions(cover: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """OCR-VQA's questions on title, author and genre, with their answers."""
    emblem, title, author = cover.things
    genre = GENRES[emblem.shape]
    other = rng.choice([name for name in GENRES.values() if name != genre])
    asked = [
        ("What is the title of this book?", title.word),
        ("Who wrote this book?", author.word),
        ("What type of book is this?", genre),
        rng.choice(((f"Is this book related to {genre}?", "Yes"), (f"Is this book related to {other}?", "No"))),
    ]
    rng.shuffle(asked)
    return asked


def _gif(cover: Scene) -> bytes:
    stream = io.BytesIO()
    draw(cover).save(stream, format="GIF")
    return stream.getvalue()
