"""`pipeline checkpoint`: every format out and in again without a changed bit, and bad input in one message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llavaflow.models import checkpoint, llava, lora, projector
from llavaflow.models.llava import Design, Llava
from llavaflow.models.lora import Lora

DESIGNS = {
    "two-layers": Design(),
    "linear-marks": Design(projector="linear", image_aspect="square", im_start_end=True),
    "three-layers": Design(projector="mlp3x_gelu"),
    "tiles": Design(image_aspect="anyres", pinpoints=((28, 56), (56, 28), (56, 56))),
}


def build(foundation: Path, design: Design, language: Path | None = None) -> Llava:
    made = llava.build(str(foundation / "clip"), str(language or foundation / "language"), design, seed=5)
    with torch.no_grad():
        # rows of their own, so that a lost one shows
        for number in made.mark_ids:
            made.model.get_input_embeddings().weight[number] = torch.randn(48)
    return made


def same(first: Llava, second: Llava) -> bool:
    one, two = first.model.state_dict(), second.model.state_dict()
    return set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", DESIGNS)
def test_original_and_back_is_exact(pipeline: Any, toy_foundation: Path, tmp_path: Path, name: str) -> None:
    made = build(toy_foundation, DESIGNS[name])
    llava.save(made, tmp_path / "hf")
    told = pipeline("checkpoint", "convert", tmp_path / "hf", tmp_path / "original", "--to", "original", "--json")
    assert told.code == 0 and told.json["format"] == "original"
    assert told.json["projector"] == str(made.projector) and told.json["im_start_end"] is made.im_start_end
    arguments = (tmp_path / "original", tmp_path / "again", "--to", "hf", "--vision", toy_foundation / "clip")
    assert pipeline("checkpoint", "convert", *arguments, "--json").json["format"] == "hf"
    again = llava.load(str(tmp_path / "again"))
    assert same(again, made)
    assert (again.image_rule, again.projector, again.mark_ids) == (made.image_rule, made.projector, made.mark_ids)


def test_a_convnext_tower_lies_apart_in_the_original_layout(
    pipeline: Any, toy_foundation: Path, tmp_path: Path
) -> None:
    from transformers import ConvNextConfig, ConvNextModel

    ConvNextModel(ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 12, 16, 24], image_size=64)).save_pretrained(
        tmp_path / "convnext"
    )
    design = Design(select_layer=-1, image_size_px=128, added_stage=(1, 32))
    made = llava.build(str(tmp_path / "convnext"), str(toy_foundation / "language"), design)
    llava.save(made, tmp_path / "hf")
    assert pipeline("checkpoint", "convert", tmp_path / "hf", tmp_path / "original", "--to", "original").code == 0
    assert not any("vision_tower" in name for name in load_file(tmp_path / "original" / "model.safetensors"))
    assert (tmp_path / "original" / "vision_tower" / "config.json").is_file()
    assert pipeline("checkpoint", "convert", tmp_path / "original", tmp_path / "again", "--to", "hf").code == 0
    again = llava.load(str(tmp_path / "again"))
    assert same(again, made) and again.image_rule == made.image_rule


def test_no_projector_at_all_is_told_by_the_configuration(pipeline: Any, toy_foundation: Path, tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    shape = {"hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**shape, image_size=28, patch_size=14)).save_pretrained(tmp_path / "clip")
    made = llava.build(str(tmp_path / "clip"), str(toy_foundation / "language"), Design(projector="identity"))
    llava.save(made, tmp_path / "hf")
    told = pipeline("checkpoint", "convert", tmp_path / "hf", tmp_path / "original", "--to", "original", "--json")
    assert told.json["projector"] == "identity 48 -> 48"
    arguments = (tmp_path / "original", tmp_path / "again", "--to", "hf", "--vision", tmp_path / "clip")
    assert pipeline("checkpoint", "convert", *arguments).code == 0
    again = llava.load(str(tmp_path / "again"))
    assert same(again, made) and again.projector == made.projector
    told = pipeline("checkpoint", "convert", tmp_path / "hf", tmp_path / "p", "--to", "projector")
    assert told.code == 2 and "identity 48 -> 48, which has no weights to write" in told.err


def test_the_tower_that_is_said_is_named_in_the_original_layout(
    pipeline: Any, toy_foundation: Path, tmp_path: Path
) -> None:
    """Upstream opens the tower that config.json names before it puts the weights in."""
    made = build(toy_foundation, Design())
    llava.save(made, tmp_path / "hf")
    arguments = (tmp_path / "hf", tmp_path / "original", "--to", "original", "--vision", toy_foundation / "clip")
    told = pipeline("checkpoint", "convert", *arguments, "--json")
    assert told.json["vision_tower"] == str(toy_foundation / "clip")
    assert pipeline("checkpoint", "convert", tmp_path / "original", tmp_path / "again", "--to", "hf").code == 0
    assert same(llava.load(str(tmp_path / "again")), made)


def test_mpt_goes_under_its_own_names(
    pipeline: Any, toy_foundation: Path, toy_language: Callable[[str], Path], tmp_path: Path
) -> None:
    made = build(toy_foundation, DESIGNS["linear-marks"], toy_language("mpt"))
    llava.save(made, tmp_path / "hf")
    assert pipeline("checkpoint", "convert", tmp_path / "hf", tmp_path / "original", "--to", "original").code == 0
    names = set(load_file(tmp_path / "original" / "model.safetensors"))
    assert {"transformer.wte.weight", "transformer.mm_projector.weight"} <= names and "lm_head.weight" not in names
    arguments = (tmp_path / "original", tmp_path / "again", "--to", "hf", "--vision", toy_foundation / "clip")
    assert pipeline("checkpoint", "convert", *arguments).code == 0
    assert same(llava.load(str(tmp_path / "again")), made)


@pytest.mark.parametrize(
    "names",
    [
        ("mistral", "LlavaMistralForCausalLM", "mistral_instruct"),
        ("qwen", "LlavaQwenForCausalLM", "qwen_1_5"),
        ("llama-3", "LlavaLlamaForCausalLM", "llava_llama_3"),
    ],
)
def test_every_family_goes_out_under_its_own_class_and_comes_back(
    pipeline: Any,
    toy_foundation: Path,
    toy_language: Callable[[str], Path],
    tmp_path: Path,
    names: tuple[str, str, str],
) -> None:
    """Under Llama's name, Qwen's biases would be left out by whoever reads it."""
    family, architecture, form = names
    made = build(toy_foundation, DESIGNS["tiles"], toy_language(family))
    setattr(made.model.config, llava.TEMPLATE_KEY, form)
    made.model.config.text_config.rope_parameters["rope_theta"] = 500_000.0
    llava.save(made, tmp_path / "hf")
    assert pipeline("checkpoint", "convert", tmp_path / "hf", tmp_path / "original", "--to", "original").code == 0
    config = json.loads((tmp_path / "original" / "config.json").read_text("utf-8"))
    assert config["architectures"] == [architecture]
    # as upstream's transformers reads it
    assert config["rope_theta"] == 500_000.0 and config["torch_dtype"] == "float32"
    arguments = (tmp_path / "original", tmp_path / "again", "--to", "hf", "--vision", toy_foundation / "clip")
    assert pipeline("checkpoint", "convert", *arguments).code == 0
    again = llava.load(str(tmp_path / "again"))
    assert same(again, made) and llava.template_of(again.model.config) == form
    assert again.model.config.text_config.rope_parameters == made.model.config.text_config.rope_parameters


def test_a_siglip_without_its_last_layer_is_taken_as_next_saves_it(
    pipeline: Any, toy_foundation: Path, tmp_path: Path
) -> None:
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**shape, image_size=28, patch_size=7)).save_pretrained(tmp_path / "siglip")
    SiglipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "siglip")
    made = llava.build(str(tmp_path / "siglip"), str(toy_foundation / "language"), DESIGNS["tiles"])
    write_original(
        tmp_path / "original",
        made,
        lambda name, value: None if "vision_model.encoder.layers.2." in name or "vision_model.head." in name else value,
    )
    arguments = (tmp_path / "original", tmp_path / "again", "--to", "hf", "--vision", tmp_path / "siglip")
    assert pipeline("checkpoint", "convert", *arguments).code == 0
    table = llava.load(str(tmp_path / "again")).model.model.vision_tower.state_dict()
    for name, value in made.model.model.vision_tower.state_dict().items():
        assert torch.equal(table[name].half(), value.half()), name


FOREIGN = {
    "image_aspect_ratio": ("anyres_max_9", "known are square, pad, anyres"),
    "mm_patch_merge_type": ("flat", "knows spatial_unpad alone"),
    "mm_vision_select_feature": ("cls", "known are patch, cls_patch"),
    "mm_vision_select_layer": (-40, "the vision tower has"),
    "vocab_size": (9999, "configuration and weights are of two models"),
    "architectures": (["LlavaMistralForCausalLM"], "has no place for"),
}


@pytest.mark.parametrize("key", FOREIGN)
def test_what_would_be_read_as_another_model_is_refused(
    pipeline: Any, toy_foundation: Path, toy_language: Callable[[str], Path], tmp_path: Path, key: str
) -> None:
    checkpoint.original.to_original(build(toy_foundation, DESIGNS["tiles"], toy_language("qwen")), tmp_path / "from")
    path, (value, said) = tmp_path / "from" / "config.json", FOREIGN[key]
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {key: value}), "utf-8")
    told = pipeline(
        "checkpoint", "convert", tmp_path / "from", tmp_path / "to", "--to", "hf", "--vision", toy_foundation / "clip"
    )
    assert told.code == 2 and said in told.err and "Traceback" not in told.err


def test_a_checkpoint_without_some_of_its_weights_is_refused(
    pipeline: Any, toy_foundation: Path, tmp_path: Path
) -> None:
    """transformers would draw them at random and go on."""
    llava.save(build(toy_foundation, Design()), tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    state = {name: value for name, value in load_file(file).items() if "layers.1.mlp.up_proj" not in name}
    save_file(state, file, metadata={"format": "pt"})
    told = pipeline("checkpoint", "convert", tmp_path / "hf", tmp_path / "to", "--to", "original")
    assert told.code == 2 and "lacks 1 weights" in told.err and "layers.1.mlp.up_proj" in told.err
    file.write_bytes(file.read_bytes()[:-100])
    told = pipeline("checkpoint", "convert", tmp_path / "hf", tmp_path / "to", "--to", "original")
    assert told.code == 2 and "cannot be read" in told.err and "Traceback" not in told.err


@pytest.mark.parametrize("form", ["hf", "original"])
def test_the_projector_comes_out_of_a_whole_model_with_its_rows(
    pipeline: Any, toy_foundation: Path, tmp_path: Path, form: str
) -> None:
    made = build(toy_foundation, DESIGNS["linear-marks"])
    llava.save(made, tmp_path / "hf")
    if form == "original":
        assert pipeline("checkpoint", "convert", tmp_path / "hf", tmp_path / form, "--to", form).code == 0
    told = pipeline("checkpoint", "convert", tmp_path / form, tmp_path / "out", "--to", "projector", "--json")
    assert told.json == {"path": str(tmp_path / "out"), "format": "projector", "projector": "linear 32 -> 48"} | {
        "im_start_end": True
    }
    file = projector.read(tmp_path / "out" / projector.FILE)
    assert file.embeddings is not None
    assert torch.equal(file.embeddings, made.model.get_input_embeddings().weight[made.mark_ids])


def adapted(foundation: Path, folder: Path) -> Llava:
    """A model with adapters that do something, and its adapter folder as upstream writes it."""
    made = build(foundation, Design())
    settings = Lora(r=4, alpha=8, dropout=0.0)
    lora.inject(made, settings, seed=1)
    with torch.no_grad():
        for name, value in made.model.named_parameters():
            if "lora_B" in name or ".multi_modal_projector." in name:
                value.normal_(std=0.1)
    lora.write(folder, made.model.state_dict(), settings, made)
    return made


@pytest.mark.parametrize("base", ["hf", "language"])
def test_an_adapter_is_merged_into_a_whole_model_or_the_language_model(
    pipeline: Any, toy_foundation: Path, tmp_path: Path, base: str
) -> None:
    made = adapted(toy_foundation, tmp_path / "adapter")
    if base == "hf":
        llava.save(build(toy_foundation, Design()), tmp_path / "base")
    else:
        shutil.copytree(toy_foundation / "language", tmp_path / "base")
        settings = {"mm_vision_tower": str(toy_foundation / "clip"), "image_aspect_ratio": "pad"}
        (tmp_path / "adapter" / "config.json").write_text(json.dumps(settings), "utf-8")
    arguments = (tmp_path / "adapter", tmp_path / "out", "--base", tmp_path / "base", "--json")
    told = pipeline("checkpoint", "merge-lora", *arguments)
    assert told.code == 0 and told.json["format"] == "hf"
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        merged = llava.load(str(tmp_path / "out")).model.eval()(input_ids=ids).logits
        assert torch.allclose(merged, made.model.eval()(input_ids=ids).logits, atol=1e-5)


def write_original(folder: Path, made: Llava, change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> None:
    """An original checkpoint in float16 with every tensor changed, or left out."""
    checkpoint.original.to_original(made, folder)
    state = {name: change(name, value.half()) for name, value in load_file(folder / "model.safetensors").items()}
    kept = {name: value for name, value in state.items() if value is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_delta_becomes_the_model_again(pipeline: Any, toy_foundation: Path, tmp_path: Path) -> None:
    """Both are made of one model, as upstream made them: differences, but projector and new rows as they are."""
    made = build(toy_foundation, DESIGNS["linear-marks"])
    rows = 200

    def without_images(name: str, value: torch.Tensor) -> torch.Tensor | None:
        if "mm_projector" in name or "vision_tower" in name:
            return None
        grown = name in checkpoint.GROWN
        # halves and quarters add up without rounding
        return (value[:rows] if grown else value).mul(4).round().div(8)

    def difference(name: str, value: torch.Tensor) -> torch.Tensor | None:
        if "vision_tower" in name:
            return None
        value = value.mul(4).round().div(4)
        known = without_images(name, value)
        if known is None:
            return value
        total = value.clone()
        total[: len(known)] -= known
        return total

    write_original(tmp_path / "base", made, without_images)
    write_original(tmp_path / "delta", made, difference)
    told = pipeline("checkpoint", "apply-delta", tmp_path / "base", tmp_path / "delta", tmp_path / "out", "--json")
    assert told.code == 0 and told.json["projector"] == "linear 32 -> 48"
    total = load_file(tmp_path / "out" / "model.safetensors")
    whole = {name: value for name, value in made.model.state_dict().items() if ".vision_tower." not in name}
    assert len(total) == len(whole) - 2
    table = whole["model.language_model.embed_tokens.weight"].half().mul(4).round().div(4)
    assert torch.equal(total["model.embed_tokens.weight"], table)
    arguments = (tmp_path / "out", tmp_path / "hf", "--to", "hf", "--vision", toy_foundation / "clip")
    assert pipeline("checkpoint", "convert", *arguments).code == 0
    again = llava.load(str(tmp_path / "hf"), precision=None)
    assert again.mark_ids == made.mark_ids
    assert torch.equal(again.model.get_input_embeddings().weight, table) and again.model.dtype == torch.float16


def test_a_file_is_told_to_fit_or_not(pipeline: Any, toy_foundation: Path, tmp_path: Path) -> None:
    llava.save(build(toy_foundation, Design()), tmp_path / "hf")
    assert pipeline("checkpoint", "convert", tmp_path / "hf", tmp_path / "p", "--to", "projector").code == 0
    told = pipeline("checkpoint", "inspect", tmp_path / "p", "--base", tmp_path / "hf", "--json")
    assert told.json["fits"] == str(tmp_path / "hf") and told.json["projector"] == "mlp2x_gelu 32 -> 48"
    torch.save({"model.mm_projector.weight": torch.zeros(64, 32), "mm_projector.bias": torch.zeros(64)}, tmp_path / "o")
    told = pipeline("checkpoint", "inspect", tmp_path / "o", "--base", tmp_path / "hf")
    assert told.code == 2 and "(linear 32 -> 64) does not fit the model (mlp2x_gelu 32 -> 48)" in told.err
    language = toy_foundation / "language"
    for path in ("p", "hf"):
        told = pipeline("checkpoint", "inspect", tmp_path / path, "--base", language, "--json")
        assert told.json["fits"] == str(language)
    told = pipeline("checkpoint", "inspect", tmp_path / "o", "--base", language)
    assert told.code == 2 and "the language model takes 48, the file gives 64" in told.err


@pytest.fixture
def bad(toy_foundation: Path, tmp_path: Path) -> Path:
    """A folder of inputs that are each wrong in one way, beside some that are right."""
    adapted(toy_foundation, tmp_path / "adapter")
    llava.save(build(toy_foundation, Design()), tmp_path / "hf")
    llava.save(build(toy_foundation, Design(projector="linear")), tmp_path / "linear")
    shutil.copytree(tmp_path / "adapter", tmp_path / "half")
    (tmp_path / "half" / lora.OTHERS).unlink()
    shutil.copytree(tmp_path / "adapter", tmp_path / "foreign")
    foreign = load_file(tmp_path / "adapter" / lora.ADAPTER)
    renamed = {name.replace("layers.1.", "layers.7."): value for name, value in foreign.items()}
    save_file(renamed, tmp_path / "foreign" / lora.ADAPTER, metadata={"format": "pt"})
    shutil.copytree(tmp_path / "hf", tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"cut off")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine", "utf-8")
    shutil.copytree(toy_foundation / "language", tmp_path / "language")
    shutil.copytree(toy_foundation / "clip", tmp_path / "clip")
    shutil.copytree(tmp_path / "adapter", tmp_path / "unsaid")
    (tmp_path / "unsaid" / lora.CONFIG).write_text("{}", "utf-8")
    shutil.copytree(tmp_path / "hf", tmp_path / "listed")
    (tmp_path / "listed" / "config.json").write_text("[]", "utf-8")
    shutil.copytree(tmp_path / "hf", tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    return tmp_path


WRONG = {
    "no such source": ("convert none out --to hf", "none is no checkpoint"),
    "adapter as source": ("convert adapter out --to original", "in lora format and cannot be written as original"),
    "no tower named": ("convert cut-original out --to hf", "is no checkpoint"),
    "output taken": ("convert hf taken --to projector", "nothing is overwritten"),
    "base without config": ("merge-lora adapter out --base taken", "taken has no config.json"),
    "base of another projector": ("merge-lora adapter out --base linear", "does not fit the model (linear 32 -> 48)"),
    "half an adapter": ("merge-lora half out --base hf", "half lacks non_lora_trainables.bin"),
    "no adapter": ("merge-lora hf out --base hf", "hf is no adapter: it has no adapter_config.json"),
    "adapter of a deeper model": ("merge-lora foreign out --base hf", "the base does not have"),
    "plain base, and nothing said": ("merge-lora adapter out --base language", "is a plain language model"),
    "delta without config": ("apply-delta language taken out", "taken has no config.json"),
    "delta of another model": ("apply-delta hf language out", "is the base of another delta"),
    "adapter of no scale": ("merge-lora unsaid out --base hf", "both are numbers in a LoRA adapter"),
    "tower instead of a model": ("inspect clip", "a 'clip' model is no LLaVA that we know"),
    "tower as a base": ("inspect adapter --base clip", "a 'clip' model is no LLaVA that we know"),
    "base that is not there": ("inspect hf --base none", "none has no config.json"),
    "whole model for another base": ("inspect hf --base linear", "the recipe asks for linear"),
    "no tokenizer": ("convert mute out --to original", "cannot load tokenizer and image processor of 'mute'"),
    "output inside a file": ("convert hf hf/config.json/out --to original", "cannot write hf/config.json/out"),
    "configuration that is a list": ("inspect listed", "listed/config.json holds no JSON object"),
    "cut weights": ("apply-delta cut language out", "model.safetensors cannot be read as weights"),
}


def test_bad_input_is_one_message_and_leaves_nothing_behind(
    pipeline: Any, bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bad)
    before = sorted(path.name for path in bad.iterdir())
    for case, (line, said) in WRONG.items():
        told = pipeline("checkpoint", *line.split())
        assert told.code == 2, (case, told.err)
        assert said in told.err and told.err.count("error: ") == 1 and "Traceback" not in told.err, (case, told.err)
        assert sorted(path.name for path in bad.iterdir()) == before, case
    assert (bad / "taken" / "mine.txt").read_text("utf-8") == "mine"
