"""For every room: a real S3 server over HTTP on loopback (moto), and the parts of a toy LLaVA with random weights."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let what the tests start hear Ctrl-C, and a run that passed end as passed.

    One process holds the C++ threads of Ray, Arrow, DuckDB, torch and tokenizers, and takes them down in no stated
    order: once all tests had passed and the process aborted behind its summary. Registered before any library does
    so, this comes after the exit callbacks of all of them, which stop servers and remove folders. What our own
    commands end with is tested from the outside, on processes that end in the usual way.
    """

    def leave() -> None:
        # an exception after the session (`last_value`) must still show in the exit code
        if session.exitstatus == pytest.ExitCode.OK and getattr(sys, "last_value", None) is None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    atexit.register(leave)
    # a shell that runs this in its background has it ignore the signal, and so would every process started from here
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an empty S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """Point the standard AWS variables at an endpoint."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("LLAVAFLOW_CACHE", str(cache))


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """`s3://bucket/prefix` of a new, empty bucket."""
    import boto3

    use_s3(monkeypatch, s3_server, tmp_path / "cache")
    bucket = f"b{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some/prefix"


@pytest.fixture(scope="session")
def toy_foundation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clip/` and `language/` as a foundation stage leaves them, and `convnext/`: random weights, a small tokenizer."""
    import torch
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        ConvNextConfig,
        ConvNextModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

    folder = tmp_path_factory.mktemp("foundation")
    tokenizer = toy_tokenizer()
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPModel(
        CLIPConfig(
            vision_config=vision | {"image_size": 28, "patch_size": 7},
            text_config=text | {"vocab_size": len(tokenizer), "max_position_embeddings": 32},
            projection_dim=16,
        )
    )
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    clip.save_pretrained(folder / "clip")
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder / "clip")
    language = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    language.save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    torch.manual_seed(0)
    tower = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 12, 16, 24], image_size=64)
    ConvNextModel(tower).save_pretrained(folder / "convnext")
    return folder


def toy_tokenizer() -> Any:
    """A byte-level tokenizer with Llama's special tokens and without `<image>`, as a language model comes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["USER: What colour is it? ASSISTANT: red green blue"], trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


# marks that the templates of a family are made of; vocabularies by which a family is told from its kin
MARKS = {
    "mpt": ["<|im_start|>", "<|im_end|>"],
    "qwen": ["<|im_start|>", "<|im_end|>"],
    "yi": ["<|im_start|>", "<|im_end|>"],
    "llama-3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
}
VOCABULARIES = {"yi": 64000, "llama-3": 128256}
BACKBONES = {"mistral": "Mistral", "qwen": "Qwen2"}


@pytest.fixture(scope="session")
def toy_language(toy_foundation: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a language model of a family, made when first asked for: random weights, the family's marks."""

    @cache
    def make(family: str) -> Path:
        if family in ("llama", "vicuna", "llama-2"):
            return toy_foundation / "language"
        folder = tmp_path_factory.mktemp("language") / family
        tokenizer = toy_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": MARKS.get(family, [])})
        if family == "llama-3":
            _begin_with(tokenizer, MARKS[family][0])
        tokenizer.save_pretrained(folder)
        _toy_model(family, tokenizer).save_pretrained(folder)
        return folder

    return make


def _begin_with(tokenizer: Any, mark: str) -> None:
    """Llama-3's first token is one of its marks, and its template spells it."""
    from tokenizers import processors

    tokenizer.bos_token = mark
    number = tokenizer.convert_tokens_to_ids(mark)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{mark} $A", special_tokens=[(mark, number)]
    )


def _toy_model(family: str, tokenizer: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(1)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    size = VOCABULARIES.get(family, len(tokenizer))
    if family == "mpt":
        shape = {"d_model": 48, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}
        return transformers.MptForCausalLM(transformers.MptConfig(**shape, vocab_size=size, **special))
    kind = BACKBONES.get(family, "Llama")
    shape = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{kind}Config")(
        **shape, num_key_value_heads=2, vocab_size=size, max_position_embeddings=512, **special
    )
    return getattr(transformers, f"{kind}ForCausalLM")(config)
