"""The ten raw sets of mix665k at their official raw sizes, as synthetic text with the dirt of the real files.

No pictures are written. What decides a component's count is the raw structure and nothing else: how many images a
set asks about, how many sentences stand on one image, which records are broken. Where the structure of the real set
is not published (sentences per image in RefCOCO, the Visual Genome images that were left out, the broken ShareGPT
conversations) it is chosen here so that the rules give the published count; one raw record more changes it.

Python: `write_all(folder)` writes about 3 GB in a few minutes; `share` shrinks every set for a quick look.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

INSTRUCT_RECORDS = 157_712
VQAV2_QUESTIONS, VQAV2_IMAGES = 443_757, 82_783
GQA_QUESTIONS, GQA_IMAGES = 943_000, 72_140
OKVQA_QUESTIONS, OKVQA_IMAGES = 9_009, 8_998
OCRVQA_BOOKS, OCRVQA_TRAIN = 207_572, 166_057
AOKVQA_QUESTIONS, AOKVQA_IMAGES = 17_056, 16_540
TEXTCAPS_IMAGES, CAPTIONS_PER_IMAGE = 21_953, 5
VG_IMAGES, VG_REGIONS, VG_USED = 108_077, 5_408_689, 86_417
# the dump that Vicuna's cleaning starts from; how many of its records are valid is what LLaVA published
SHAREGPT_CHATS, SHAREGPT_VALID = 94_145, 40_688
# name: (train refs, train sentences, other refs)
REF_SETS = {
    "refcoco": (42_404, 120_624, 7_596),
    "refcoco+": (42_278, 120_191, 7_578),
    "refcocog": (42_226, 80_512, 7_596),
}
REF_IMAGES, REF_SEGMENTS = 25_000, 48_447

_NOUNS = "man woman dog cat bus train cup table tree bench kite horse plate clock sign boat bird sofa lamp".split()
_ADJECTIVES = "red blue small large wooden green old bright striped empty tall dark metal white round".split()
_PLACES = ["on the left", "on the right", "in the middle", "near the window", "by the road", "in the background"]


class Words:
    """Phrases drawn from one pool: making text must not be what takes the time."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)
        draw = self.rng.choice
        self.phrases = [f"{draw(_ADJECTIVES)} {draw(_NOUNS)} {draw(_PLACES)}" for _ in range(4096)]
        self.questions = [f"What is the {phrase} doing next to the {draw(_NOUNS)}?" for phrase in self.phrases]
        self.place = 0

    def phrase(self) -> str:
        self.place = (self.place * 5 + 3) % 4096 if self.place % 4096 else self.place + 1
        return self.phrases[self.rng.getrandbits(12)]

    def question(self, number: int) -> str:
        """A question; one in twenty has white space at its edges."""
        text = self.questions[self.rng.getrandbits(12)]
        return f" {text}\n" if number % 20 == 7 else text

    def prose(self, sentences: int) -> str:
        return ". ".join([self.phrases[self.rng.getrandbits(12)] for _ in range(sentences)]) + "."


def spread(total: int, bins: int) -> Iterator[int]:
    """`total` things dealt to bins as evenly as it goes, larger bins first."""
    base, more = divmod(total, bins)
    return (base + (number < more) for number in range(bins))


def write_list(path: Path, records: Iterable[Any], head: bytes = b"[", tail: bytes = b"]") -> None:
    """A JSON list, record by record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", 1 << 20) as stream:
        stream.write(head)
        for number, record in enumerate(records):
            stream.write((b", " if number else b"") + orjson.dumps(record))
        stream.write(tail)


def write_mapping(path: Path, items: Iterable[tuple[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", 1 << 20) as stream:
        stream.write(b"{")
        for number, (key, record) in enumerate(items):
            stream.write((b", " if number else b"") + orjson.dumps(key) + b": " + orjson.dumps(record))
        stream.write(b"}")


def instruct(root: Path, count: Callable[[int], int]) -> None:
    words = Words("instruct")

    def record(number: int) -> dict[str, Any]:
        turns = []
        for place in range(1 + number % 4):
            asked = words.question(number + place).strip()
            head = "" if place else ("<image>\n" if number % 2 else "")
            tail = "" if place or head else "\n<image>"
            turns.append({"from": "human", "value": f"{head}{asked}{tail}"})
            turns.append({"from": "gpt", "value": words.prose(4 if number % 4 else 16)})
        # ids are numbers in one record of nine, and some occur more than once
        name: Any = number % 118_287 if number % 9 == 0 else f"{number % 118_287:012d}"
        return {"id": name, "image": f"{number % 118_287:012d}.jpg", "conversations": turns}

    write_list(root / "llava-instruct/llava_instruct_150k.json", map(record, range(count(INSTRUCT_RECORDS))))


def sharegpt(root: Path, count: Callable[[int], int]) -> None:
    words = Words("sharegpt")
    valid = count(SHAREGPT_VALID)
    wanted = spread(valid, count(SHAREGPT_CHATS))
    rng = random.Random("sharegpt/order")
    flags = [1] * valid + [0] * (sum(1 for _ in wanted) - valid)
    rng.shuffle(flags)

    def turns(number: int, pairs: int) -> list[dict[str, str]]:
        talk = []
        for place in range(pairs):
            talk.append({"from": "human", "value": f"{number}: {words.question(number + place)}"})
            talk.append({"from": "gpt", "value": words.prose(24)})
        return talk

    def record(number: int) -> dict[str, Any]:
        talk = turns(number, 2 + number % 3)
        if flags[number]:
            talk = talk[1:] if number % 11 == 0 else talk[:-1] if number % 13 == 0 else talk
        else:
            fault = number % 4
            talk = [[], talk[:1], [talk[0], *talk], [*talk[:1], {"from": "gpt", "value": " "}]][fault]
        return {"id": f"{number:07d}_0", "conversations": talk}

    write_list(root / "sharegpt/sharegpt.json", map(record, range(len(flags))))


def _answers(answer: str) -> list[dict[str, Any]]:
    return [
        {"answer": answer, "raw_answer": answer, "answer_confidence": "yes", "answer_id": number}
        for number in range(1, 11)
    ]


def _vqa(root: Path, name: str, prefix: str, questions: int, images: int) -> None:
    """The two files of VQAv2 or OK-VQA; some image ids are text."""
    words = Words(name)

    def asked() -> Iterator[tuple[int, int]]:
        for image, wanted in enumerate(spread(questions, images)):
            for place in range(wanted):
                yield image * 5 + 9, (image * 5 + 9) * 1000 + place

    def question(image: int, number: int) -> dict[str, Any]:
        name: Any = str(image) if image % 50 == 4 else image
        return {"image_id": name, "question": words.question(number), "question_id": number}

    rows = (question(*pair) for pair in asked())
    write_list(root / f"{prefix}OpenEnded_mscoco_train2014_questions.json", rows, b'{"info": {}, "questions": [', b"]}")

    def note(image: int, number: int) -> dict[str, Any]:
        answer = words.rng.choice(_NOUNS)
        consensus = {"multiple_choice_answer": answer, "answer_type": "other"} if prefix else {}
        return {**consensus, "answers": _answers(answer), "image_id": image, "question_id": number}

    notes = (note(*pair) for pair in asked())
    write_list(root / f"{prefix}mscoco_train2014_annotations.json", notes, b'{"info": {}, "annotations": [', b"]}")


def vqav2(root: Path, count: Callable[[int], int]) -> None:
    _vqa(root / "vqav2", "vqav2", "v2_", count(VQAV2_QUESTIONS), count(VQAV2_IMAGES))


def okvqa(root: Path, count: Callable[[int], int]) -> None:
    _vqa(root / "okvqa", "okvqa", "", max(count(OKVQA_QUESTIONS), count(OKVQA_IMAGES)), count(OKVQA_IMAGES))


def gqa(root: Path, count: Callable[[int], int]) -> None:
    """Questions with the programs and annotations that make up most of the real file."""
    words = Words("gqa")
    program = [
        {"operation": "select", "dependencies": [], "argument": "table (123456)"},
        {"operation": "relate", "dependencies": [0], "argument": "cup,on,s (234567)"},
        {"operation": "query", "dependencies": [1], "argument": "color"},
    ]

    def items() -> Iterator[tuple[str, Any]]:
        number = 0
        for image, wanted in enumerate(spread(count(GQA_QUESTIONS), count(GQA_IMAGES))):
            image_id: Any = f"n{image}" if image % 40 == 3 else image if image % 40 == 5 else str(image)
            for _ in range(wanted):
                number += 1
                answer = words.rng.choice(_ADJECTIVES)
                yield (
                    f"{number:08d}",
                    {
                        "semantic": program, "entailed": [], "equivalent": [f"{number:08d}"],
                        "question": words.question(number), "imageId": image_id, "isBalanced": True,
                        "groups": {"global": "color", "local": "06-table_color"}, "answer": answer,
                        "semanticStr": "select: table (123456)->relate: cup,on,s (234567) [0]->query: color [1]",
                        "annotations": {"answer": {}, "question": {"2": "123456"}, "fullAnswer": {"1": "123456"}},
                        "types": {"detailed": "colorO", "semantic": "attr", "structural": "query"},
                        "fullAnswer": f"The cup is {answer}.",
                    },
                )  # fmt: skip

    write_mapping(root / "gqa/train_balanced_questions.json", items())


def ocrvqa(root: Path, count: Callable[[int], int]) -> None:
    words = Words("ocrvqa")
    train = count(OCRVQA_TRAIN)

    def record(number: int) -> dict[str, Any]:
        title, author = words.phrase(), words.phrase()
        asked = ["Who wrote this book?", "What is the title of this book?", "What is the genre of this book?"]
        return {
            "imageURL": f"http://x.test/{number}.{'gif' if number % 230 == 9 else 'jpg'}",
            "questions": [*asked, "Is this a journey related book?", "Is this book related to Travel?"],
            "answers": [f"{author} " if number % 30 == 2 else author, title, "Travel", "No", "Yes"],
            "title": title, "authorName": author, "genre": "Travel", "split": 1 if number < train else 2 + number % 2,
        }  # fmt: skip

    ids = (f"{number:09d}{'X' if number % 11 == 5 else number % 10}" for number in range(count(OCRVQA_BOOKS)))
    write_mapping(root / "ocrvqa/dataset.json", ((name, record(number)) for number, name in enumerate(ids)))


def aokvqa(root: Path, count: Callable[[int], int]) -> None:
    words = Words("aokvqa")

    def records() -> Iterator[dict[str, Any]]:
        number = 0
        for image, wanted in enumerate(spread(count(AOKVQA_QUESTIONS), count(AOKVQA_IMAGES))):
            for _ in range(wanted):
                number += 1
                yield {
                    "split": "train", "image_id": image * 7 + 9, "question_id": f"q{number:020d}",
                    "question": words.question(number), "choices": [words.phrase() for _ in range(4)],
                    "correct_choice_idx": number % 4, "direct_answers": [words.phrase()] * 10,
                    "difficult_direct_answer": False, "rationales": [words.prose(1) for _ in range(3)],
                }  # fmt: skip

    write_list(root / "aokvqa/aokvqa_v1p0_train.json", records())


def textcaps(root: Path, count: Callable[[int], int]) -> None:
    words = Words("textcaps")
    images = count(TEXTCAPS_IMAGES)

    def captions() -> Iterator[dict[str, Any]]:
        for image in range(images):
            texts = [words.prose(2) for _ in range(CAPTIONS_PER_IMAGE)]
            for place, text in enumerate(texts):
                yield {
                    "image_id": f"{image:016x}", "caption_id": image * CAPTIONS_PER_IMAGE + place,
                    "caption_str": f"{text}\n" if image % 8 == 1 else text, "reference_strs": texts,
                    "image_width": 1024, "image_height": 768, "set_name": "train",
                }  # fmt: skip

    head = b'{"dataset_type": "train", "data": ['
    write_list(root / "textcaps/TextCaps_0.1_train.json", captions(), head, b"]}")
    tokens = ({"image_id": f"{image:016x}", "ocr_tokens": words.phrase().split()} for image in range(images))
    write_list(root / "textcaps/TextVQA_Rosetta_OCR_v0.2_train.json", tokens, head, b"]}")


def sentences_per_image(total: int, images: int, segments: int) -> list[int]:
    """How many sentences stand on each image, so that cutting by nine gives `segments` in all."""
    full = list(spread(segments - images, images))
    rest = list(spread(total - 9 * (segments - images), images))
    assert all(1 <= number <= 9 for number in rest), "the sentences do not fit the segments"
    return [9 * whole + part for whole, part in zip(full, rest, strict=True)]


def refcoco(root: Path, count: Callable[[int], int]) -> None:
    """Three sets over the same images: their refs with sentences, as JSON beside an instances file of boxes."""
    words = Words("refcoco")
    sizes = {name: tuple(count(number) for number in numbers) for name, numbers in REF_SETS.items()}
    total = sum(sentences for _, sentences, _ in sizes.values())
    images, segments = count(REF_IMAGES), count(REF_SEGMENTS)
    if not images <= total - 9 * (segments - images) <= 9 * images:
        segments = images + (total - 5 * images) // 9
    slots = [image for image, wanted in enumerate(sentences_per_image(total, images, segments)) for _ in range(wanted)]
    # deal the slots to the sets in proportion, so that an image has sentences of all three
    order = sorted(
        ((place + 0.5) / sentences, name) for name, (_, sentences, _) in sizes.items() for place in range(sentences)
    )
    shares: dict[str, list[int]] = {name: [] for name in sizes}
    for image, (_, name) in zip(slots, order, strict=True):
        shares[name].append(image)
    for name, (refs, _, others) in sizes.items():
        _write_ref_set(root / "refcoco" / name, shares[name], refs, others, words)


def _write_ref_set(folder: Path, slots: list[int], refs: int, others: int, words: Words) -> None:
    groups = _grouped(slots, refs)
    boxes = [(n % 500, n % 300, 40 + n % 160, 30 + n % 170) for n in range(refs + others)]

    def record(number: int, image: int, sentences: int, split: str) -> dict[str, Any]:
        said = [{"sent_id": number * 9 + place, "raw": words.phrase()} for place in range(sentences)]
        for sentence in said:
            sentence["sent"] = sentence["raw"]
        return {
            "ref_id": number, "ann_id": number, "image_id": image, "split": split, "category_id": 1,
            "file_name": f"COCO_train2014_{image:012d}_{number}.jpg", "sentences": said,
        }  # fmt: skip

    train = (record(number, image, sentences, "train") for number, (image, sentences) in enumerate(groups))
    rest = (record(refs + number, number % 3000, 3, ("val", "testA", "testB")[number % 3]) for number in range(others))
    write_list(folder / "refs(unc).json", (row for part in (train, rest) for row in part))
    pictures = [{"id": image, "width": 640, "height": 480, "file_name": f"{image}.jpg"} for image in range(REF_IMAGES)]
    notes = [
        {"id": number, "image_id": 0, "category_id": 1, "bbox": box, "area": 100, "segmentation": [[1, 2, 3]]}
        for number, box in enumerate(boxes)
    ]
    folder.joinpath("instances.json").write_bytes(orjson.dumps({"images": pictures, "annotations": notes}))


def _grouped(slots: list[int], refs: int) -> list[tuple[int, int]]:
    """Sentence slots (sorted by image) as exactly `refs` refs of one image each: (image, sentences)."""
    starts = [place for place in range(len(slots)) if place == 0 or slots[place] != slots[place - 1]]
    inner = [place for place in range(len(slots)) if place and slots[place] == slots[place - 1]]
    more = refs - len(starts)
    assert 0 <= more <= len(inner), "as many refs as images at least, as sentences at most"
    chosen = {inner[len(inner) * number // more] for number in range(more)} if more else set()
    cuts = sorted({*starts, *chosen}) + [len(slots)]
    return [(slots[first], last - first) for first, last in zip(cuts[:-1], cuts[1:], strict=True)]


def vg(root: Path, count: Callable[[int], int]) -> None:
    words = Words("vg")
    images, used = count(VG_IMAGES), count(VG_USED)

    def region(image: int, number: int) -> dict[str, Any]:
        # one box in a hundred reaches outside its image
        x = 560 if number % 100 == 31 else number % 500
        return {
            "region_id": image * 100 + number, "image_id": image, "phrase": words.phrase(),
            "x": x, "y": number % 300, "width": 40 + number % 100, "height": 30 + number % 90,
        }  # fmt: skip

    rows = (
        {"id": image, "regions": [region(image, number) for number in range(wanted)]}
        for image, wanted in enumerate(spread(count(VG_REGIONS), images), 1)
    )
    write_list(root / "vg/region_descriptions.json", rows)
    pictures = (
        {
            "image_id": image, "url": f"https://x.test/VG_100K{'_2' if image % 5 < 2 else ''}/{image}.jpg",
            "width": 640, "height": 480, "coco_id": None, "flickr_id": None,
        }
        for image in range(1, images + 1)
    )  # fmt: skip
    write_list(root / "vg/image_data.json", pictures)
    held_out = random.Random("vg/held-out").sample(range(1, images + 1), images - used)
    (root / "vg/held_out.json").write_bytes(orjson.dumps(sorted(held_out)))


SETS = (instruct, sharegpt, vqav2, gqa, okvqa, ocrvqa, aokvqa, textcaps, refcoco, vg)


def write_all(root: Path, share: float = 1.0) -> None:
    """All ten sets; a `share` below 1 keeps the structure and not the published counts."""
    for write in SETS:
        write(root, lambda number: max(round(number * share), 1))
