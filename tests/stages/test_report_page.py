"""The report: the right number in the right column of the zoo, categories, and the same tables in the terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image
from rich.console import Console

from llavaflow.datasets.benchmarks._benchmark import Answer, Item, Pair, Result, load_benchmark
from llavaflow.stages._report import print_report
from llavaflow.stages._report_page import columns_of, write_report
from llavaflow.stages._report_plots import category_values


def seed(*kinds: str) -> Result:
    """SEED answers, every other one right, of the given kinds by turns."""
    pairs = [
        Pair(
            item=Item(
                id=str(n), gold="A", names=(str(n),), group=kinds[n % len(kinds)], meta={"dimension": f"d{n % 4}"}
            ),
            answer=Answer(id=str(n), text="AB"[n % 2], line=n, prompt=f"Q{n}?"),
        )
        for n in range(8)
    ]
    return load_benchmark("seed").result(pairs)


def test_images_alone_do_not_stand_in_the_column_of_images_and_videos() -> None:
    assert columns_of({"seed": seed("image")}) == {"SEED-IMG": 50.0}
    assert set(columns_of({"seed": seed("image", "video")})) == {"SEED", "SEED-IMG"}


def test_categories_are_the_first_group_of_numbers() -> None:
    metrics: dict[str, Any] = {"total": 3.0, "rows": {"a": 1, "b": 2, "c": 3}, "two": {"a": 1.0, "b": 2.0}}
    assert category_values(metrics) == {}
    points = {name: {"points": value, "accuracy": 0.0} for name, value in (("x", 9.0), ("y", 8.0), ("z", 7.0))}
    assert category_values(metrics | {"categories": points}) == {"x": 9.0, "y": 8.0, "z": 7.0}
    shares = {name: {"f1": 0.5, "accuracy": 0.6} for name in ("random", "popular", "adversarial")}
    assert category_values({"splits": shares}) == {"random": 50.0, "popular": 50.0, "adversarial": 50.0}
    reviewed = {name: {"relative": 70.0} for name in ("all", "conv", "detail", "complex")}
    assert list(category_values(reviewed)) == ["conv", "detail", "complex"]


def test_published_rows_stand_beside_ours_on_every_page(tmp_path: Path) -> None:
    result = seed("image", "video")
    facts = {"samples": 8, "scores": {"seed": {"score": 50.0, "n": 8, "rule": result.rule}}}
    ours = columns_of({"seed": result}) | {"POPE": 80.0, "GQA": 60.0}
    write_report(tmp_path, facts=facts, title="Ours", model="m", ours=ours, results={"seed": result})
    text, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| LLaVA-1.5 7B |"))
    assert row == "| LLaVA-1.5 7B | 58.6 |  | 85.9 | 62.0 |"
    assert "LLaVA-1.5 7B" in page and "categories_seed.png" in page and page.count("<h2>seed</h2>") == 1
    assert (tmp_path / "pictures" / "categories_seed.png").stat().st_size > 1000
    console = Console(file=(stream := io.StringIO()), width=120)
    print_report(console, text)
    assert "LLaVA-1.5 7B" in stream.getvalue() and "categories_seed" not in stream.getvalue()


def test_examples_show_their_own_pictures_and_hostile_text_as_text(tmp_path: Path) -> None:
    """ScienceQA's pictures have one name and a folder each; stored answers may not say which picture they are about."""
    pictures, out = tmp_path / "images", tmp_path / "out"
    out.mkdir()
    for name, colour in (("1/image.png", "red"), ("2/image.png", "blue"), ("odd #1?.png", "green")):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(pictures / name)
    evil = "<script>alert(1)</script>"
    names = (("1/image.png", ""), ("2/image.png", "2/image.png"), ("", "odd #1?.png"), ("../images/1/image.png", ""))
    pairs = [
        Pair(
            item=Item(id=str(n), gold=f"</p>{evil}", names=(str(n),), image=image),
            answer=Answer(id=str(n), text=evil, line=n, prompt=f"{n}{evil}", image=given),
        )
        for n, (image, given) in enumerate(names)
    ]
    result = load_benchmark("gqa").result(pairs)
    facts = {"samples": 4, "scores": {"gqa": {"score": 0.0, "n": 4, "rule": evil}}}
    write_report(out, facts=facts, title=evil, model=evil, ours={}, results={"gqa": result}, pictures=pictures)
    page = (out / "report.html").read_text()
    assert evil not in page and "&lt;script&gt;" in page and page.count('class="card ') == 3
    shown = [unquote(part.split('"')[0]) for part in page.split('src="')[1:]]
    assert shown == ["pictures/1/image.png", "pictures/2/image.png", "pictures/odd #1?.png"]
    assert [(out / name).read_bytes() for name in shown] == [
        (pictures / name.removeprefix("pictures/")).read_bytes() for name in shown
    ]


def test_every_column_of_a_judged_benchmark_is_on_the_page(tmp_path: Path) -> None:
    judged = {"mmvet": {"score": 31.1, "n": 218}, "llava-bench-wild": {"score": 65.4, "conv": 58.8, "n": 60}}
    facts = {"samples": 278, "scores": {}, "judged": judged}
    write_report(tmp_path, facts=facts, title="Ours", model="m", ours={}, told={"title": "a judge", "date": "today"})
    assert "58.8" in (tmp_path / "report.html").read_text() and "58.8" in (tmp_path / "report.md").read_text()
