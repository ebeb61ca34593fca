"""The tiny BLIP: a captioner trained on scenes and the caption that names all they show in reading order.

Its eye starts as that of the tiny CLIP. BLIP's has no norm before the first layer where CLIP's has one, so that norm
is folded into the embeddings with the mean spread of real patches; training mends what the mean gets wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets.scenes import COLOURS, PLACES, SHAPES, scene
from llavaflow.stages._foundation_pictures import Framed, framed, pixels, processing
from llavaflow.stages._foundation_words import blip_tokenizer

if TYPE_CHECKING:
    import torch

_TEXT_LENGTH = 64
_HELD_OUT = 128
_WORDS_FROM = 1500


class TinyBlip:
    """A BlipForConditionalGeneration in training."""

    def __init__(
        self, *, steps: int, batch: int, learning_rate: float, size: int, patch: int, hidden: int, layers: int,
        side: int, seed: int, clip: Path,
    ) -> None:  # fmt: skip
        self.steps, self.batch, self.learning_rate = steps, batch, learning_rate
        self.size, self.side, self.seed = size, side, seed
        texts = [caption(Framed(scene=scene("train", f"words/{number}"), pad=True)) for number in range(_WORDS_FROM)]
        self.tokenizer = blip_tokenizer([*texts, *_ALWAYS], _TEXT_LENGTH)
        self.model = _blip_model(self.tokenizer, size, patch, hidden, layers)
        _start_from_clip(self.model.vision_model, clip, pixels(framed("train", "spread", 64, side), size))

    def loss(self, step: int) -> torch.Tensor:
        batch = framed("train", f"{self.seed}/blip/{step}", self.batch, self.side)
        words = self.tokenizer([caption(item) for item in batch], padding=True, return_tensors="pt")
        ids = words.input_ids
        ids[:, 0] = self.tokenizer.convert_tokens_to_ids("[DEC]")
        labels = ids.masked_fill(words.attention_mask == 0, -100)
        seen = self.model(
            pixel_values=pixels(batch, self.size),
            input_ids=ids,
            attention_mask=words.attention_mask,
            labels=labels,
        )
        loss: torch.Tensor = seen.loss
        return loss

    def save(self, folder: Path) -> None:
        from transformers import BlipImageProcessorPil, BlipProcessor

        self.model.save_pretrained(folder)
        images = BlipImageProcessorPil(**processing(self.size))
        BlipProcessor(image_processor=images, tokenizer=self.tokenizer).save_pretrained(folder)

    def measure(self) -> dict[str, Any]:
        """On held-out scenes: the F1 of the coloured shapes named in generated captions."""
        import torch

        batch = framed("test", f"{self.seed}/captions", _HELD_OUT, self.side)
        with torch.no_grad():
            out = self.model.generate(pixel_values=pixels(batch, self.size), max_new_tokens=60, do_sample=False)
        texts = self.tokenizer.batch_decode(out, skip_special_tokens=True)
        hits = said = there = 0
        for item, text in zip(batch, texts, strict=True):
            named = mentioned(text)
            true = [thing.name for thing in item.scene.things]
            hits += sum(min(named.count(name), true.count(name)) for name in set(true))
            said, there = said + len(named), there + len(true)
        return {"accuracy": round(2 * hits / max(said + there, 1), 4), "examples": texts[:4]}


def caption(item: Framed) -> str:
    """A caption with every thing in reading order."""
    things = sorted(item.scene.things, key=lambda thing: PLACES.index(thing.place))
    return say.enumeration([say.article(say.phrase(thing, word=True)) for thing in things]).lower()


def mentioned(text: str) -> list[str]:
    """The coloured shapes that a caption names."""
    words = text.replace(",", " ").split()
    return [f"{one} {two}" for one, two in zip(words, words[1:], strict=False) if one in COLOURS and two in SHAPES]


_ALWAYS = ("a picture of", "an image of", "a photo of")


def _blip_model(tokenizer: Any, size: int, patch: int, hidden: int, layers: int) -> Any:
    from transformers import BlipConfig, BlipForConditionalGeneration

    number = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer), "hidden_size": hidden, "encoder_hidden_size": hidden,
        "intermediate_size": 3 * hidden, "num_hidden_layers": 2, "num_attention_heads": hidden // 32,
        "max_position_embeddings": 2 * _TEXT_LENGTH, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "pad_token_id": number("[PAD]"), "bos_token_id": number("[DEC]"), "eos_token_id": number("[SEP]"),
        "sep_token_id": number("[SEP]"),
        # the usual 0.02 suits wide models; here it would leave attention flat for hundreds of steps
        "initializer_range": hidden**-0.5,
    }  # fmt: skip
    vision = {
        "image_size": size, "patch_size": patch, "hidden_size": hidden, "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": hidden // 32, "hidden_act": "quick_gelu",
    }  # fmt: skip
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))


def _start_from_clip(eye: Any, clip: Path, pictures: torch.Tensor) -> None:
    """Copy CLIP's vision weights into BLIP's vision model."""
    import torch
    from transformers import CLIPVisionModel

    source = CLIPVisionModel.from_pretrained(clip)
    weights = {name.removeprefix("vision_model."): value for name, value in source.state_dict().items()}
    with torch.no_grad():
        _fold_norm(eye.embeddings, weights, pictures)
        for number, layer in enumerate(eye.encoder.layers):
            old = {
                name.removeprefix(f"encoder.layers.{number}."): value
                for name, value in weights.items()
                if name.startswith(f"encoder.layers.{number}.")
            }
            for kind in ("weight", "bias"):
                joined = torch.cat([old[f"self_attn.{part}_proj.{kind}"] for part in ("q", "k", "v")])
                getattr(layer.self_attn.qkv, kind).copy_(joined)
                getattr(layer.self_attn.projection, kind).copy_(old[f"self_attn.out_proj.{kind}"])
                for name in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"):
                    getattr(layer.get_submodule(name), kind).copy_(old[f"{name}.{kind}"])


def _fold_norm(embeddings: Any, weights: dict[str, torch.Tensor], pictures: torch.Tensor) -> None:
    """BLIP's embeddings as CLIP's followed by its first norm, with one spread for all patches."""
    from torch.nn.functional import conv2d

    kernel = weights["embeddings.patch_embedding.weight"]
    places = weights["embeddings.position_embedding.weight"]
    patches = conv2d(pictures, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2) + places[1:]
    gain = weights["pre_layrnorm.weight"] / patches.std(-1).mean()
    embeddings.patch_embedding.weight.copy_((kernel - kernel.mean(0)) * gain[:, None, None, None])
    embeddings.patch_embedding.bias.copy_(weights["pre_layrnorm.bias"])
    embeddings.position_embedding.copy_(((places - places.mean(-1, keepdim=True)) * gain)[None])
    first = weights["embeddings.class_embedding"]
    embeddings.class_embedding.copy_((first - first.mean()) * gain + weights["pre_layrnorm.bias"])
