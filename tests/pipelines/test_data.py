"""`pipeline data`: read, check, fix and show from the outside, on small files with the dirt of real ones."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image
from rich.console import Console

from llavaflow.datasets._index import IndexWriter
from llavaflow.datasets._shards import ShardWriter
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext, folder_context
from llavaflow.pipelines._cli._data_page import as_text
from llavaflow.pipelines._cli._picture import as_blocks
from llavaflow.pipelines._cli.main import main
from llavaflow.stages import _check_labels
from llavaflow.stages._fetch import Fetched
from llavaflow.stages._fetch_ledger import ledger_row, ledger_writer
from llavaflow.stages._stage import Stage
from llavaflow.stages.own_data import OwnData


def pipeline(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, Any, str]:
    """Exit code, the JSON document (None without one), stderr."""
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, json.loads(out) if "--json" in args and out.strip() else out, err


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three COCO images: one jpeg is there, one is missing, one has no caption."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    Image.new("RGB", (40, 30), "red").save(root / "train2017/000000000001.jpg")
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 40, "height": 30} for n in (1, 2, 3)]
    captions = [
        {"image_id": 1, "id": 11, "caption": " A red image.\n"},
        {"image_id": 2, "id": 12, "caption": "Unseen."},
        {"image_id": 3, "id": 13, "caption": "  "},
    ]
    document = {"info": {}, "images": images, "annotations": captions, "categories": []}
    (root / "annotations/captions_train2017.json").write_text(json.dumps(document))
    return root


def test_read_counts_everything(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    code, told, _ = pipeline(capsys, "data", "read", "coco", "--path", coco, "--out", out, "--json")
    assert code == 0
    assert (told["samples"], told["turns"], told["dropped"]) == (2, 4, {"no-caption": 1})
    assert (told["images_present"], told["images_missing"]) == (1, 1)
    assert (told["records"], told["records_used"], told["records_unaccounted"]) == (3, 2, 0)
    assert told["repairs"] == {"edge-whitespace": 2, "caption-left-out": 1}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["image"] == "coco/train2017/000000000001.jpg"
    assert rows[0]["conversations"][1] == {"from": "gpt", "value": "A red image."}


def test_read_can_leave_out_missing_images(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    args = ("data", "read", "coco", "--path", coco, "--images", coco / "train2017", "--out", out, "--drop-missing")
    code, told, _ = pipeline(capsys, *args, "--json")
    assert (code, told["samples"], told["dropped"]) == (0, 1, {"no-caption": 1, "missing-image": 1})
    assert [row["id"] for row in json.loads(out.read_text())] == ["000000000001"]


def test_read_never_overwrites_unasked(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    code, _, err = pipeline(capsys, "data", "read", "coco", "--path", coco, "--out", out)
    assert code == 2 and "not overwritten" in err and out.read_text() == "mine"
    assert pipeline(capsys, "data", "read", "coco", "--path", coco, "--out", out, "--force")[0] == 0
    assert out.read_text().startswith("{")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("cocoa", "--path", "."), "unknown source 'cocoa'"),
        (("gqa", "--path", "nowhere"), "nowhere does not exist"),
        (("gqa", "--path", "."), "no train_balanced_questions.json in"),
        (("gqa", "--path", ".", "--option", "a=1"), "has no option 'a'"),
    ],
)
def test_bad_input_is_one_message_and_writes_nothing(
    args: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = pipeline(capsys, "data", "read", *args, "--out", "out.jsonl")
    assert code == 2 and message in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_malformed_records_stop_the_read_or_are_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"id": "1", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    raw = tmp_path / "raw.jsonl"
    raw.write_text(f'{json.dumps(good)}\n{{"id": "2"}}\nnot json\n{json.dumps(good)}\n')
    args = ("data", "read", "llava-json", "--path", raw, "--out", tmp_path / "out.jsonl", "--json")
    code, _, err = pipeline(capsys, *args)
    assert code == 2 and "line 2: field 'conversations' is missing" in err
    code, told, _ = pipeline(capsys, *args, "--tolerate", "0.5", "--quarantine", tmp_path / "bad.jsonl")
    assert code == 0 and told["samples"] == 2 and told["dropped"] == {"malformed-record": 2}
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [row["where"] for row in bad] == ["line 2", "line 3"]
    again = ("--force", "--tolerate", "0.3", "--quarantine", tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text("old")
    code, _, err = pipeline(capsys, *args, *again)
    assert code == 2 and "tolerated share" in err
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 2, "the list is written when the read is refused"
    assert pipeline(capsys, *args, "--tolerate", "1.5")[0] == 2


def rows_with_faults() -> list[dict[str, Any]]:
    def row(name: str | int, question: str, answer: str, image: str | None = None) -> dict[str, Any]:
        talk = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        return {"id": name, **({"image": image} if image else {}), "conversations": talk}

    return [
        row("good", "<image>\nWhat?", "Red.", "red.jpg"),
        row(5, " Hello? ", "Hi."),
        row("good", "Another one?", "Yes."),
        row("copy", "Another one?", "Yes."),
        row("almost", "another ONE", "yes"),
        row("twice", "<image> and <image>", "No.", "red.jpg"),
        row("gone", "<image>", "No.", "gone.jpg"),
        row("void", "Hm?", " "),
        row("marked", "What is </s>?", "An end mark."),
        row("renamed", "<image>\nWhich format?", "PNG.", "png.jpg"),
        row("long", "Say it all", "word " * 9000),
    ]


@pytest.fixture
def faulty(tmp_path: Path) -> tuple[Path, Path]:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (40, 30), "red").save(images / "red.jpg")
    Image.new("RGB", (40, 30), "blue").save(images / "png.jpg", format="PNG")
    file = tmp_path / "faulty.json"
    file.write_text(json.dumps(rows_with_faults()))
    return file, images


def test_check_names_every_fault_by_record(faulty: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = pipeline(capsys, "data", "check", faulty[0], "--images", faulty[1], "--json")
    assert code == 2 and told["samples"] == 11
    assert told["errors"] == {"image-count-mismatch": 1, "missing-image": 1, "empty-answer": 1, "reserved-string": 1}
    assert told["warnings"] == {
        "id-not-text": 1, "edge-whitespace": 3, "repeated-id": 1, "duplicate-record": 1, "near-duplicate": 1,
        "wrong-extension": 1, "over-max-length": 1,
    }  # fmt: skip
    by_kind = {example["kind"]: example["id"] for example in told["examples"]}
    assert by_kind["missing-image"] == "gone" and by_kind["near-duplicate"] == "almost"
    assert told["lengths"]["exact"] is False


def test_check_passes_a_clean_file(
    faulty: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "clean.jsonl"
    file.write_text(json.dumps(rows_with_faults()[0]) + "\n")
    code, told, _ = pipeline(capsys, "data", "check", file, "--images", faulty[1], "--json")
    assert (code, told["errors"], told["warnings"]) == (0, {}, {})


def test_a_tokenizer_gives_exact_lengths_and_a_labels_dry_run(
    faulty: tuple[Path, Path],
    toy_foundation: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = ("data", "check", faulty[0], "--tokenizer", toy_foundation / "language", "--max-length", 1000, "--json")
    code, told, _ = pipeline(capsys, *args, "--image-tokens", 900)
    assert code == 2 and told["lengths"]["exact"] is True
    # `long` has one answer of 45,000 characters: it cannot be cut to fit, and nothing would be learned from it
    assert told["errors"]["too-long-first-turn"] >= 1
    assert {"image-count-mismatch", "empty-answer", "reserved-string"} <= set(told["errors"])
    # many records are shared out among processes: nothing else changes
    monkeypatch.setattr(_check_labels, "MANY", 0)
    assert pipeline(capsys, *args, "--image-tokens", 900)[:2] == (code, told)
    code, _, err = pipeline(capsys, "data", "check", faulty[0], "--tokenizer", faulty[1])
    assert code == 2 and "no tokenizer at" in err


def test_fix_mends_a_copy_and_records_every_change(
    faulty: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, images = faulty
    before = file.read_bytes()
    fixed = tmp_path / "fixed.json"
    code, told, _ = pipeline(capsys, "data", "check", file, "--images", images, "--fix", fixed, "--json")
    assert code == 2 and file.read_bytes() == before
    rows = {row["id"]: row for row in json.loads(fixed.read_text())}
    assert set(rows) == {"good", "5", "good#2", "almost", "twice", "renamed", "long"}
    assert rows["twice"]["conversations"][0]["value"] == "<image>\nand"
    changes = [json.loads(line) for line in (tmp_path / "fixed.json.changes.jsonl").read_text().splitlines()]
    assert len(changes) == told["fixed"]["changes"]
    assert {"id", "edge-whitespace", "image-tokens"} == {change["kind"] for change in changes}
    aside = [json.loads(line) for line in (tmp_path / "fixed.json.quarantine.jsonl").read_text().splitlines()]
    assert {row["raw"]["id"] for row in aside} == {"copy", "gone", "void", "marked"}
    assert pipeline(capsys, "data", "check", fixed, "--images", images, "--json")[0] == 0


def test_leaks_into_evaluation_sets_are_errors(
    faulty: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, images = faulty
    exam = tmp_path / "exam"
    exam.mkdir()
    (exam / "x.jpg").write_bytes((images / "red.jpg").read_bytes())
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "image": "png.jpg", "text": "Which format?\nOne word."}) + "\n")
    args = ("data", "check", file, "--images", images, "--against", exam, "--against", questions, "--json")
    code, told, _ = pipeline(capsys, *args)
    leaks = {example["id"] for example in told["examples"] if example["kind"] == "in-evaluation-set"}
    assert code == 2 and leaks == {"good", "twice", "renamed"}


def test_show_marks_what_is_learned(
    faulty: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, images = faulty
    code, told, _ = pipeline(capsys, "data", "show", file, "-n", 1, "--images", images, "--json")
    assert code == 0
    assert [piece["text"] for piece in told[0]["text"] if piece["learned"]] == [" Red.</s>"]
    assert told[0]["images_found"] == [True]
    page = tmp_path / "page.html"
    assert pipeline(capsys, "data", "show", file, "-n", 8, "--images", images, "--html", page)[0] == 0
    text = page.read_text()
    assert "<b> Red.&lt;/s&gt;</b>" in text and "data:image/jpeg;base64," in text and "empty-answer" in text


def test_show_with_a_tokenizer_colours_the_tokens_that_have_labels(
    faulty: tuple[Path, Path], toy_foundation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("data", "show", faulty[0], "-n", 2, "--images", faulty[1], "--tokenizer", toy_foundation / "language")
    code, told, _ = pipeline(capsys, *args, "--image-tokens", 9, "--json")
    first = told[0]
    assert code == 0 and "<image x 9>" in first["text"][0]["text"]
    assert [piece["text"].strip() for piece in first["text"] if piece["learned"]] == ["Red.</s>"]
    assert 0 < first["learned_tokens"] < first["tokens"] - 9
    plain = pipeline(capsys, *args[:-2], "--json")[1]
    assert "".join(piece["text"] for piece in plain[1]["text"]) == "".join(piece["text"] for piece in told[1]["text"])
    code, told, _ = pipeline(capsys, *args, "--image-tokens", 9, "--max-length", 12, "--json")
    assert told[0]["fault"].startswith("too-long-first-turn")


def test_pictures_are_drawn_in_characters() -> None:
    data = io.BytesIO()
    Image.new("RGB", (72, 40), (255, 0, 0)).save(data, "PNG")
    drawn = as_blocks(data.getvalue())
    assert drawn.plain.splitlines() == ["▀" * 36] * 10
    assert {str(span.style) for span in drawn.spans} == {"rgb(255,0,0) on rgb(255,0,0)"}
    assert "does not decode" in as_blocks(b"nothing").plain
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=120)
    shown = {"record": 0, "id": "a", "images": ["a.png"], "images_found": [True], "pictures": [data.getvalue()]}
    as_text(console, [{**shown, "fault": None, "text": [{"text": "Beside it.", "learned": True}]}], None)
    first_row = next(line for line in console.file.getvalue().splitlines() if "▀" in line)  # type: ignore[attr-defined]
    assert "Beside it." in first_row


@pytest.mark.parametrize("name", ["mixture", "pairs"])
def test_artifacts_are_checked_and_shown_by_path_and_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    path = {"mixture": _mixture, "pairs": _pairs}[name](store)
    kind = path.parent.name
    for ref in (str(path), f"{kind}:{path.name[:6]}"):
        code, told, _ = pipeline(capsys, "data", "check", ref, "--store", store, "--json")
        assert code == 0 and told["samples"] == 1 and told["errors"] == {}, "its own images are found"
        code, told, _ = pipeline(capsys, "data", "show", ref, "--store", store, "--json")
        assert code == 0 and told[0]["images_found"] == [True] and told[0]["text"][1]["learned"]
    (path / "shards/00000.tar").write_bytes(b"")
    code, told, _ = pipeline(capsys, "data", "check", path, "--json")
    assert code == 2 and told["errors"] == {"broken-image": 1}


def _run(stage: Any, store: Path) -> Path:
    ctx = folder_context(store, stage)
    return ctx.store.local_path(stage.run(ctx))


def _mixture(store: Path) -> Path:
    folder = store.parent
    Image.new("RGB", (40, 30), "red").save(folder / "red.jpg")
    (folder / "my.json").write_text(json.dumps(rows_with_faults()[:1]))
    return _run(OwnData(file=folder / "my.json", images=folder), store)


@dataclass(frozen=True, kw_only=True)
class Downloaded(Stage):
    """Two URLs, of which one gave a picture."""

    kind: ClassVar[Kind] = "shards"

    def run(self, ctx: RunContext) -> Artifact:
        data = io.BytesIO()
        Image.new("RGB", (40, 30), "red").save(data, "JPEG")
        with ShardWriter(ctx.out) as shards, ledger_writer(ctx.out) as ledger, IndexWriter(ctx.out):
            placed = shards.add("ab/a.jpg", data.getvalue(), {}, width=40, height=30)
            good = Fetched(id="a", reason=None, width=40, height=30)
            ledger.add(ledger_row("http://x/1", "a red picture", good, placed.image, placed.sha256))
            ledger.add(ledger_row("http://x/2", "gone", Fetched(id="b", reason="http-404"), None, None))
        return ctx.finish({"samples": 1})


def _pairs(store: Path) -> Path:
    return _run(Downloaded(), store)


def test_lengths_follow_the_size_of_each_image_where_tiles_do(
    faulty: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one.json"
    file.write_text(json.dumps(rows_with_faults()[:1]))
    args = ("data", "check", file, "--images", faulty[1], "--json", "--image-tokens")
    plain = pipeline(capsys, *args, "0")[1]["lengths"]["max"]
    # 40 x 30 goes into one tile's width: a map of 24 x 18, and a newline behind each of its rows
    assert pipeline(capsys, *args, "anyres-336")[1]["lengths"]["max"] == plain + 576 + 18 * 25
    code, _, err = pipeline(capsys, *args, "anyres-33")
    assert code == 2 and "Did you mean anyres-336" in err


def test_an_evaluation_image_in_other_bytes_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exam, images = tmp_path / "exam", tmp_path / "images"
    for folder in (exam, images):
        folder.mkdir()
    for number in range(12):
        picture = Image.effect_mandelbrot((96, 64), (-2, -1.0 + number / 9, 0.5, 1), 40).convert("RGB")
        picture.save(exam / f"{number}.png")
        if number == 5:
            picture.resize((72, 48)).save(images / "same.jpg", quality=80)
    Image.linear_gradient("L").save(images / "other.jpg")
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A set."}]
    rows = [{"id": name, "image": name, "conversations": talk} for name in ("same.jpg", "other.jpg")]
    (tmp_path / "my.json").write_text(json.dumps(rows))
    args = ("data", "check", tmp_path / "my.json", "--images", images, "--against", exam, "--json")
    code, told, _ = pipeline(capsys, *args)
    like = [example["id"] for example in told["examples"] if example["kind"] == "like-evaluation-image"]
    assert (code, like, told["errors"]) == (0, ["same.jpg"], {})
    code, _, err = pipeline(capsys, "data", "check", tmp_path / "my.json", "--against", exam)
    assert code == 2 and "give the folder of the training images" in err


def test_leaks_are_found_in_every_published_form_of_questions(
    faulty: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = [{"from": "human", "value": "<image>\nWhat sport?\nOne word."}, {"from": "gpt", "value": "Ski"}]
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"id": "a", "image": "coco/train2017/000000000007.jpg", "conversations": talk}) + "\n")
    forms = {
        "vqa.json": {"info": {}, "questions": [{"question_id": 1, "image_id": 7, "question": "What  sport?"}]},
        "gqa.json": {"1": {"imageId": "7", "question": "What sport?"}},
        "pope.jsonl": {"question_id": 1, "image": "COCO_val2014_000000000007.jpg", "text": "What sport?"},
    }
    for name, document in forms.items():
        (tmp_path / name).write_text(json.dumps(document) + "\n")
        code, told, _ = pipeline(capsys, "data", "check", file, "--against", tmp_path / name, "--json")
        assert code == 2 and told["errors"] == {"in-evaluation-set": 1}, name
    (tmp_path / "none.json").write_text('{"answers": [1, 2]}')
    code, _, err = pipeline(capsys, "data", "check", file, "--against", tmp_path / "none.json")
    assert code == 2 and "nothing to compare with" in err
    (tmp_path / "cut.jsonl").write_text(json.dumps(forms["pope.jsonl"]) + '\n{"question_id": 2, "ima')
    code, _, err = pipeline(capsys, "data", "check", file, "--against", tmp_path / "cut.jsonl")
    assert code == 2 and "cut.jsonl, line 2" in err, "half a set would pass what the other half asks"


def test_help_lists_the_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = pipeline(capsys, "data", "check", "--help")
    assert code == 0 and "image-count-mismatch" in text and "near-duplicate" in text
