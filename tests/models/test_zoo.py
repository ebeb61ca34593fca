"""Every row of the zoo pages, and numbers that keep their rule, harness and source."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llavaflow.models.sizes import language_size
from llavaflow.models.templates import names
from llavaflow.models.zoo import RULES, ZOO


def test_all_rows_of_the_pages_are_there() -> None:
    # 1.6, 1.5, v1 (one of three rows as LoRA and merged), ScienceQA, MPT, projectors, deltas, NeXT card, ConvLLaVA
    assert len(ZOO) == 4 + 4 + 4 + 1 + 1 + (10 + 4) + 5 + 1 + 2 * 3
    forms = [row.form for row in ZOO.values()]
    assert {form: forms.count(form) for form in set(forms)} == {
        "checkpoint": 17,
        "lora": 4,
        "projector": 14,
        "delta": 5,
    }


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("llava-v1.5-7b", "VQAv2", 78.5),
        ("llava-v1.5-13b", "POPE", 85.9),
        ("llava-v1.5-13b", "MM-Vet", 36.1),
        ("llava-v1.5-7b-lora", "MME", 1476.9),
        ("llava-v1.5-13b-lora", "VizWiz", 58.9),
        ("llava-v1.6-vicuna-7b", "SEED-IMG", 70.2),
        ("llava-v1.6-vicuna-13b", "MME-C", 326),
        ("llava-v1.6-mistral-7b", "MathVista", 37.7),
        ("llava-v1.6-34b", "MMMU", 51.1),
        ("llava-v1.6-34b", "MM-Vet", 57.4),
        ("llava-llama-2-13b-chat-lightning-preview", "Bench-All", 67.9),
        ("ConvLLaVA-sft-1536", "DocVQA", 59.0),
        ("ConvLLaVA-sft-768", "RefCOCO+-testB", 69.7),
        ("llava-lcs558k-scienceqa-vicuna-13b-v1.3", "SQA", 91.087),
    ],
)
def test_numbers_are_those_of_the_pages(name: str, column: str, value: float) -> None:
    assert ZOO[name].scores[column].value == value


def test_no_number_without_rule_harness_and_source() -> None:
    for row in ZOO.values():
        for score in [*row.scores.values(), *row.other.values()]:
            assert score.rule and score.harness and score.source


def test_columns_of_1_5_and_1_6_are_not_mixed_up() -> None:
    assert "SEED" not in ZOO["llava-v1.6-34b"].scores and "SEED-IMG" not in ZOO["llava-v1.5-13b"].scores
    assert ZOO["llava-v1.5-13b"].scores["LLaVA-W"].value == 72.5
    assert ZOO["llava-v1.5-13b"].other["LLaVA-W"].value == 70.7
    assert set(RULES) >= set(ZOO["llava-v1.5-13b"].scores) | set(ZOO["llava-v1.6-34b"].scores)


def test_templates_and_language_models_exist() -> None:
    for row in ZOO.values():
        assert row.template in names()
        if "/" in row.language:
            assert language_size(row.language).params > 6e9


def test_the_zoo_and_the_planners_data_need_no_torch() -> None:
    code = (
        "import sys; import llavaflow.models.zoo, llavaflow.models.sizes, llavaflow.models.templates, "
        "llavaflow.models.packing, llavaflow.models.images, llavaflow.models.samplers, llavaflow.models.labels, "
        "llavaflow.models.language, llavaflow.models.vision; "
        "print([name for name in ('torch', 'transformers', 'PIL') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
