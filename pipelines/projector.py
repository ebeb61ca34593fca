"""Projectors: the pretrainings whose weights the model zoo lists, each for one language model and one tower.

A projector works with the language model and the tower that it was trained between, and with no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines import _llava_v1 as v1
from llavaflow.pipelines import llava15
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages.train import Train


def _recipe(name: str, model: str, first: Train, script: str, notes: str = "") -> Recipe:
    pixels = 336 if first.vision == base.CLIP_336 else 224
    return Recipe(
        name=f"projector-{name}",
        title=f"Projector ({first.projector}) between CLIP-L {pixels} and {model}",
        notes=notes,
        stages={"captions": first.data, "pretrain": first},
        sources=base.cite_script("pretrain", first, script),
    )


def _two_layer(size: str) -> Recipe:
    """LLaVA-1.5's, on the released captions."""
    first = base.pretrain(
        v1.LCS_CAPTIONS,
        vision=base.CLIP_336,
        language=v1.vicuna(size, "v1.5"),
        projector="mlp2x_gelu",
        learning_rate=1e-3,
        global_batch=256,
    )
    return _recipe(f"vicuna-{size}-v1-5-336", f"Vicuna-{size.upper()} v1.5", first, llava15.PRETRAIN)


def _vicuna(size: str, vision: Pretrained, pixels: int) -> Recipe:
    first = v1.projector(v1.LCS_CAPTIONS, v1.vicuna(size, "v1.3"), vision)
    return _recipe(f"vicuna-{size}-v1-3-{pixels}", f"Vicuna-{size.upper()} v1.3", first, v1.PRETRAIN)


def _llama_2(size: str, vision: Pretrained, pixels: int) -> Recipe:
    first = v1.projector(v1.LCS_CAPTIONS, v1.llama_2_chat(size), vision)
    return _recipe(f"llama-2-{size}-chat-{pixels}", f"LLaMA-2-{size.upper()}-Chat", first, v1.PRETRAIN)


def _legacy(name: str, model: str, first: Train, script: str) -> Recipe:
    """Legacy: no zero-shot use, and the file holds the rows of <im_start> and <im_end> unless its name says not."""
    held = "with" if first.im_start_end else "without"
    made = _recipe(name, model, first, script, f"Legacy, {held} <im_start> and <im_end>; use the same in finetuning.")
    return replace(made, sources=v1.cite_legacy("pretrain", first, script))


def _legacy_ones() -> Iterator[Recipe]:
    cc3m = {size: v1.legacy_projector("cc3m", v1.vicuna_v0(size), "v0") for size in ("7b", "13b")}
    for size, first in cc3m.items():
        yield _legacy(f"vicuna-{size}-v0-cc3m", f"Vicuna-{size.upper()} v0", first, v1.README)
    bare = replace(cc3m["13b"], im_start_end=False)
    yield _legacy("vicuna-13b-v0-cc3m-no-im-token", "Vicuna-13B v0", bare, v1.README)
    lcs = v1.legacy_projector("lcs", v1.vicuna("7b", "v1.1"), "v1")
    yield _legacy("vicuna-7b-v1-1-lcs558k", "Vicuna-7B v1.1", lcs, v1.LIGHTNING)


TOWERS = {224: base.CLIP_224, 336: base.CLIP_336}
RECIPES = {
    recipe.name: recipe
    for recipe in (
        *(_two_layer(size) for size in ("7b", "13b")),
        *(
            make(size, vision, pixels)
            for make in (_vicuna, _llama_2)
            for size in ("7b", "13b")
            for pixels, vision in TOWERS.items()
        ),
        *_legacy_ones(),
    )
}
