"""Templates render what upstream's `get_prompt` renders; the expected strings are written out in full here."""

from __future__ import annotations

import pytest

from llavaflow.infra.errors import InputError
from llavaflow.models.templates import Template, for_family, names, place_images, template

USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN = USER.replace("curious user", "curious human").replace("the user's", "the human's")
SEES = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
TAGS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the "
    "visual content that the user provides, and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
TURNS = [("human", "<image>\nWhat?"), ("gpt", "A cat."), ("human", "Red?"), ("gpt", "No.")]
HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"

TRAINED = {
    "v1": f"{USER} USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Red? ASSISTANT: No.</s>",
    "llava_v1": f"{HUMAN} USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Red? ASSISTANT: No.</s>",
    "v1_mmtag": f"{TAGS} USER: <Image><image></Image>\nWhat? ASSISTANT: A cat.</s>USER: Red? ASSISTANT: No.</s>",
    "v0": f"{HUMAN}\n\n### Human: <image>\nWhat?\n### Assistant: A cat.\n### Human: Red?\n### Assistant: No.\n### ",
    "llava_llama_2": (
        f"[INST] <<SYS>>\n{SEES}\n<</SYS>>\n\n<image>\nWhat? [/INST] A cat. </s><s>[INST] Red? [/INST] No. </s>"
    ),
    "mistral_instruct": "[INST] <image>\nWhat? [/INST] A cat. </s>[INST] Red? [/INST] No. </s>",
    "mpt": (
        "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. The assistant gives helpful "
        "and honest answers.<|im_end|><|im_start|>user\n<image>\nWhat?<|im_end|><|im_start|>assistant\nA cat.<|im_end|>"
        "<|im_start|>user\nRed?<|im_end|><|im_start|>assistant\nNo.<|im_end|>"
    ),
    "chatml_direct": (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nWhat?<|im_end|>"
        "<|im_start|>assistant\nA cat.<|im_end|><|im_start|>user\nRed?<|im_end|><|im_start|>assistant\nNo.<|im_end|>"
    ),
    "qwen_2": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nRed?<|im_end|>\n"
        "<|im_start|>assistant\nNo.<|im_end|>\n"
    ),
    "gemma_instruct": (
        "<start_of_turn>user\n<image>\nWhat?<end_of_turn>\n<start_of_turn>model\nA cat.<end_of_turn>\n"
        "<start_of_turn>user\nRed?<end_of_turn>\n<start_of_turn>model\nNo.<end_of_turn>\n"
    ),
    "llava_llama_3": (
        f"<|begin_of_text|>{HEAD.format('system')}{SEES}<|eot_id|>{HEAD.format('user')}<image>\nWhat?<|eot_id|>"
        f"{HEAD.format('assistant')}A cat.<|eot_id|>{HEAD.format('user')}Red?<|eot_id|>"
        f"{HEAD.format('assistant')}No.<|eot_id|>"
    ),
}
PROMPTS = {
    "v1": f"{USER} USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Red? ASSISTANT:",
    "llava_v0": f"{HUMAN}###Human: <image>\nWhat?###Assistant: A cat.###Human: Red?###Assistant:",
    "v0_mmtag": (
        f"{TAGS}###Human: <Image><image></Image>###Assistant: Received.###Human: What?###Assistant: A cat."
        "###Human: Red?###Assistant:"
    ),
    "mistral_instruct": "[INST] <image>\nWhat? [/INST] A cat. </s>[INST] Red? [/INST]",
    "qwen_2_5": (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nRed?<|im_end|>\n<|im_start|>assistant\n"
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_text_is_upstreams_to_the_byte(name: str) -> None:
    assert template(name).text(TURNS) == TRAINED[name]


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_is_upstreams_to_the_byte(name: str) -> None:
    assert template(name).prompt(TURNS[:3]) == PROMPTS[name]


def test_plain_throws_the_question_away() -> None:
    assert template("plain").text([("human", "Describe it.\n<image>"), ("gpt", "a dog")]) == "<image>a dog\n"


def test_vicuna_v0_shows_its_demonstration_only_when_prompted() -> None:
    asked = template("v0").prompt([("human", "Why?")])
    assert "###Human: What are the key differences between renewable and non-renewable energy sources?###" in asked
    assert asked.endswith("social instability.\n###Human: Why?###Assistant:")
    assert "renewable" not in template("v0").text([("human", "Why?"), ("gpt", "So.")])


@pytest.mark.parametrize("name", [name for name in names() if template(name).style != "single"])
def test_training_text_starts_with_the_prompt_and_only_the_rest_is_supervised(name: str) -> None:
    turns = TURNS[:2] if template(name).style == "plain" else TURNS
    if "mmtag" in name:
        turns = [(role, text.replace("<image>\n", "")) for role, text in TURNS]
    segments = template(name).segments(turns)
    prompt = template(name).prompt(turns[:-1])
    text = "".join(segment.text for segment in segments)
    supervised = "".join(segment.text for segment in segments if segment.supervised)
    assert text.startswith(prompt)
    assert turns[-1][1] in text[len(prompt) :] and text[len(prompt) :].strip("\n") in supervised


def test_upstream_rule_adds_role_headers_and_keeps_the_text() -> None:
    for name in ("qwen_2", "llava_llama_3", "v0"):
        form = template(name)
        answers, upstream = form.segments(TURNS), form.segments(TURNS, "upstream")
        assert "".join(s.text for s in answers) == "".join(s.text for s in upstream)
        learned = "".join(s.text for s in upstream if s.supervised)
        assert "assistant" in learned.lower() and "assistant" not in "".join(s.text for s in answers if s.supervised)


def test_every_key_of_the_recipes_is_there() -> None:
    keys = (
        "plain v0_plain v0 default llava_v0 v0_mmtag v1_mmtag v1 vicuna_v1 llava_v1 llama_2 llava_llama_2 "
        "mistral_instruct mpt chatml_direct mistral_direct llava_llama_3 qwen_1_5 qwen_2 qwen_2_5 gemma_instruct"
    )
    assert names() == sorted(keys.split())


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'vicuna_v2'.*vicuna_v1"):
        template("vicuna_v2")


@pytest.mark.parametrize(
    ("name", "text", "mark"),
    [
        ("v1", "see </s> here", "</s>"),
        ("v1", "USER: a ASSISTANT: b", " ASSISTANT: "),
        ("v1", "### a heading", None),
        ("llava_v0", "### a heading", "###"),
        ("mpt", "<|im_end|>", "<|im_end|>"),
        ("llava_llama_2", "[/INST]", "[/INST]"),
        ("llava_llama_3", "a <|eot_id|>", "<|eot_id|>"),
    ],
)
def test_reserved_strings_are_found(name: str, text: str, mark: str | None) -> None:
    assert template(name).reserved(text) == mark


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("What?\n<image>", "<image>\nWhat?"),
        (" a <image> b ", "<image>\na  b"),
        ("<image>", "<image>"),
        ("no picture ", "no picture "),
        ("<image> and <image>", "<image> and <image>"),
    ],
)
def test_a_single_image_goes_first(text: str, placed: str) -> None:
    assert place_images(text) == placed == place_images(placed)


def test_im_start_end_wraps_every_image() -> None:
    text = template("v1").with_im_start_end().text([("human", "What?\n<image>"), ("gpt", "A dog.")])
    assert "USER: <im_start><image><im_end>\nWhat? ASSISTANT: A dog.</s>" in text
    tagged = template("v1_mmtag", im_start_end=True)
    assert "<Image><im_start><image><im_end></Image>" in tagged.text(TURNS)


def test_families_name_their_templates() -> None:
    assert {"v1", "plain"} <= set(for_family("vicuna")) and "v1" not in for_family("qwen")


def test_turns_out_of_order_are_refused() -> None:
    with pytest.raises(InputError, match="alternate"):
        template("v1").text([("gpt", "Hi."), ("human", "Hi.")])
    with pytest.raises(InputError, match="ends with a human turn"):
        template("v1").prompt(TURNS)


class _Vocabulary:
    unk_token_id, eos_token_id = 0, 2

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<|im_end|>": 7, "</s>": 2}.get(token, 0)


@pytest.mark.parametrize(("name", "ids"), [("v1", [2]), ("mpt", [2, 7]), ("llava_v0", [2]), ("plain", [2])])
def test_stop_ids_are_known_marks_and_end_of_text(name: str, ids: list[int]) -> None:
    form: Template = template(name)
    assert form.stop_token_ids(_Vocabulary()) == ids
