"""A served model answers an evaluation as the checkpoint behind the server does; a kill costs no answer twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.infra.fingerprint import digest_outside
from llavaflow.pipelines._cli.ask import command
from llavaflow.stages import _served
from llavaflow.stages._answerer import Checkpoint, make_worker
from llavaflow.stages._chat import Chat
from llavaflow.stages._exam import as_row, questions
from llavaflow.stages._local_model import NAME, LocalModel
from llavaflow.stages._served import KEY, Served, ask_served, chat_request, data_url
from llavaflow.stages.evaluate import Evaluate
from llavaflow.stages.questions import Questions
from llavaflow.stages.world import World

WORLD = World(
    coco_images=4, gqa_images=4, vg_images=4, ocrvqa_books=4, textcaps_images=4, sharegpt_chats=4, urls=160,
    exam_questions=4, open_images=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def untrained(toy_foundation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from llavaflow.models.llava import Design, build, save

    folder = tmp_path_factory.mktemp("untrained")
    save(build(str(toy_foundation / "clip"), str(toy_foundation / "language"), Design(image_aspect="pad")), folder)
    return folder


def stage(url: str, **changes: Any) -> Evaluate:
    served = Served(url=url, model=NAME)
    settings: dict[str, Any] = {"benchmarks": ("gqa",), "variants": ("images", "blank"), "max_new_tokens": 4}
    return Evaluate(model=served, **{"questions": WORLD} | settings | changes)


def test_a_server_gives_the_answers_of_its_checkpoint(bench: Any, untrained: Path) -> None:
    world = bench.path(bench.run(WORLD))
    with LocalModel(untrained, "v1") as server:
        artifact = bench.run(stage(server.base_url))
    root = bench.path(artifact)
    asked = questions(world, "gqa", ("images", "blank"), 0, 4)
    worker = make_worker(checkpoint=Checkpoint(path=untrained), template="v1", images=world / "eval/images", threads=1)
    expected = {row.key: text for row, text in zip(asked, worker([as_row(row) for row in asked]), strict=True)}
    for variant, name in (("images", "gqa"), ("blank", "gqa.blank")):
        lines = (root / f"answers/{name}.jsonl").read_text().splitlines()
        said = [json.loads(line)["text"] for line in lines]
        assert said == [expected[f"gqa/{variant}/{number}"] for number in range(4)]
    assert "refused" not in artifact.facts


def test_a_published_benchmark_goes_by_its_own_name(bench: Any, untrained: Path, tmp_path: Path) -> None:
    """GQA is about colours in the world's exam alone, and published points and percents have no mean."""
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "1.jpg")
    (tmp_path / "images").symlink_to(tmp_path)
    (tmp_path / "gqa").mkdir()
    row = {"question_id": "7", "image": "1.jpg", "text": "What colour?\nAnswer in a word."}
    (tmp_path / "gqa" / "questions.jsonl").write_text(json.dumps(row) + "\n")
    gold = {"7": {"question": "What colour?", "imageId": "1", "answer": "red", "types": {}}}
    (tmp_path / "gqa" / "testdev_balanced_questions.json").write_text(json.dumps(gold))
    asked = Questions(folder=tmp_path, benchmarks=("gqa",))
    bench.run(asked)
    with LocalModel(untrained, "v1") as server:
        artifact = bench.run(stage(server.base_url, questions=asked, variants=("images",)))
        both = bench.run(stage(server.base_url, questions=asked))
    assert set(artifact.facts["scores"]) == {"gqa"} and not {"types", "mean", "margin"} & set(artifact.facts)
    assert "| gqa | 1 | 0.0 |" in (bench.path(artifact) / "report.md").read_text()
    assert set(both.facts["types"]) == {"gqa"}


def test_a_killed_evaluation_does_not_ask_again_what_was_answered(
    bench: Any, untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(WORLD)
    monkeypatch.setattr(_served, "CHUNK", 3)
    with LocalModel(untrained, "v1") as server:
        killed = stage(server.base_url)
        with pytest.MonkeyPatch.context() as dying:
            ask_all = Chat.ask_all

            def dies(chat: Any, requests: Any, *how: Any) -> None:
                ask_all(chat, requests, *how)
                if server.answered >= 6:
                    raise KeyboardInterrupt

            dying.setattr(Chat, "ask_all", dies)
            with pytest.raises(KeyboardInterrupt):
                killed.run(bench.context(killed))
        assert server.answered == 6
        assert bench.run(killed).facts["samples"] == 4
        # 4 questions in two variants
        assert server.answered == 8


def test_a_server_that_cannot_look_at_pictures_is_told_so(bench: Any, untrained: Path) -> None:
    bench.run(WORLD)
    with LocalModel(untrained) as server:
        other = Served(url=server.base_url, model="another")
        wrong = Evaluate(model=other, questions=WORLD, benchmarks=("gqa",), variants=("images",))
        with pytest.raises(StageFailed, match="refused 4 of 4.*no model another"):
            bench.run(wrong)


@pytest.mark.parametrize(
    ("url", "says"), [("localhost:8000", "no address"), ("http://me:secret@host/v1", "carries a secret")]
)
def test_an_address_that_cannot_be_used_is_refused_at_once(url: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        Served(url=url, model="m").endpoint()
    assert "secret@" not in str(refused.value)


def test_the_judge_s_key_never_goes_to_the_model_s_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "judge")
    assert Served(url="http://host/v1", model="m").endpoint().api_key == "none"
    monkeypatch.setenv(KEY, "model")
    assert Served(url="http://host/v1", model="m").endpoint().api_key == "model"


def test_two_checkpoints_of_one_shape_are_two_models(tmp_path: Path) -> None:
    for name, weights in (("a", b"1234"), ("b", b"5678")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    places = [Evaluate(model=Checkpoint(path=tmp_path / name), questions=WORLD).outside() for name in "ab"]
    assert [[str(path) for path in place] for place in places] == [["model.path/model.safetensors"]] * 2
    first, second = ({name: digest_outside(path) for name, path in place.items()} for place in places)
    assert first != second
    nowhere = Evaluate(model=Checkpoint(path=tmp_path / "c"), questions=WORLD).outside()
    assert nowhere == {"model.path": tmp_path / "c"}


def test_a_picture_counts_as_a_picture_in_the_budget(tmp_path: Path) -> None:
    from PIL import Image

    Image.effect_noise((600, 600), 90).convert("RGB").save(tmp_path / "noise.png")
    request = chat_request("m", "What?", data_url(tmp_path / "noise.png", "images"), 16)
    assert len(str(request.body)) > 100_000 and 2_880 < request.most_tokens[0] < 3_000


def test_ask_takes_an_address(untrained: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (72, 72), "red").save(tmp_path / "red.png")
    with LocalModel(untrained) as server:
        served = Served(url=server.base_url, model=NAME)
        expected = ask_served(served, "What colour is it?", tmp_path / "red.png", 4)
        words = [server.base_url, str(tmp_path / "red.png"), "What colour is it?", "--max-new-tokens", "4", "--json"]
        done = CliRunner().invoke(command, [*words, "--model", NAME])
        assert json.loads(done.stdout)["answer"] == expected
        assert "--model NAME" in str(CliRunner().invoke(command, words).exception)
