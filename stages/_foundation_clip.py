"""The tiny CLIP: contrastive at two grains, picture against caption and patch against phrase.

The second grain (each patch of an object's box against the phrases that scenes are made of) gives the patch features,
the ones LLaVA reads, their meaning early; a phrase is embedded by the same text tower as a caption.
"""

from __future__ import annotations

import random
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llavaflow.datasets import _scenes_text as say
from llavaflow.datasets._scenes_web import alt_text
from llavaflow.datasets.scenes import COLOURS, SHAPES, WORDS, scene
from llavaflow.stages._foundation_pictures import Framed, framed, pixels, processing
from llavaflow.stages._foundation_words import clip_tokenizer

if TYPE_CHECKING:
    import torch

_TEXT_LENGTH = 64
_BACKGROUND = "plain background"
_BACKGROUND_WEIGHT = 0.1
_PHRASE_SCALE = 20.0
_HELD_OUT_BATCHES, _HELD_OUT_BATCH = 6, 64
# share of training captions with the noise of alt texts
_NOISY = 0.4
# the share of pairs that the CLIP filter of the tiny recipe keeps: a little less than the share of matched ones
KEPT_FRACTION = 0.88


class TinyClip:
    """A CLIPModel in training."""

    def __init__(
        self, *, steps: int, batch: int, learning_rate: float, size: int, patch: int, hidden: int, layers: int,
        side: int, seed: int, world: Path,
    ) -> None:  # fmt: skip
        self.steps, self.batch, self.learning_rate = steps, batch, learning_rate
        self.size, self.side, self.seed, self.grid, self.world = size, side, seed, size // patch, world
        rng = random.Random("clip words")
        pictures = [scene("train", f"words/{number}") for number in range(1500)]
        texts = [text for picture in pictures for text in (*say.captions(picture, rng), alt_text(picture, rng))]
        self.tokenizer = clip_tokenizer(texts + self._phrases, _TEXT_LENGTH)
        self.model = _clip_model(self.tokenizer, size, patch, hidden, layers)

    def loss(self, step: int) -> torch.Tensor:
        name = f"{self.seed}/clip/{step}"
        batch = framed("train", name, self.batch, self.side)
        seen = self._compare(batch, name, noisy=True, output_hidden_states=True)
        patches = seen.vision_model_output.hidden_states[-2][:, 1:]
        loss: torch.Tensor = seen.loss + self._phrase_loss(patches, batch)
        return loss

    def save(self, folder: Path) -> None:
        from transformers import CLIPImageProcessorPil, CLIPProcessor

        self.model.save_pretrained(folder)
        square = processing(self.size)
        images = CLIPImageProcessorPil(**square, do_center_crop=False, crop_size=square["size"])
        CLIPProcessor(image_processor=images, tokenizer=self.tokenizer).save_pretrained(folder)

    def measure(self) -> dict[str, Any]:
        """Retrieval on held-out scenes: the share of pictures and of captions that find their own among 64."""
        import torch

        hits = 0.0
        with torch.no_grad():
            for number in range(_HELD_OUT_BATCHES):
                batch = framed("test", f"{self.seed}/retrieval/{number}", _HELD_OUT_BATCH, self.side)
                likeness = self._compare(batch, f"retrieval/{number}").logits_per_image
                own = torch.arange(len(batch))
                hits += float((likeness.argmax(0) == own).float().mean() + (likeness.argmax(1) == own).float().mean())
        return {"retrieval": round(hits / 2 / _HELD_OUT_BATCHES, 4), **self._separation()}

    def _separation(self) -> dict[str, Any]:
        """How the planted mismatched pairs of the world's URL table fare when the least similar pairs are dropped."""
        import torch

        kinds, texts, pictures = _planted_pairs(self.world, self.side)
        scores: list[float] = []
        with torch.no_grad():
            for start in range(0, len(texts), _HELD_OUT_BATCH):
                part = slice(start, start + _HELD_OUT_BATCH)
                seen = self.model(pixel_values=pixels(pictures[part], self.size), **self._tokens(texts[part]))
                scores += (seen.image_embeds * seen.text_embeds).sum(-1).tolist()
        limit = sorted(scores)[round((1 - KEPT_FRACTION) * len(scores))]
        kept = [score >= limit for score in scores]
        wrong = [not good for good, kind in zip(kept, kinds, strict=True) if kind == "mismatched"]
        right = [good for good, kind in zip(kept, kinds, strict=True) if kind == "good"]
        return {
            "mismatch_recall": round(sum(wrong) / max(len(wrong), 1), 4),
            "matched_kept": round(sum(right) / max(len(right), 1), 4),
            "threshold": round(limit, 4),
        }

    def _compare(self, batch: list[Framed], name: str, *, noisy: bool = False, **options: Any) -> Any:
        rng = random.Random(f"captions/{name}")
        texts = [
            alt_text(item.scene, rng)
            if noisy and rng.random() < _NOISY
            else say.brief_caption(item.scene, rng, place=rng.random() < 0.5)
            for item in batch
        ]
        return self.model(pixel_values=pixels(batch, self.size), return_loss=True, **self._tokens(texts), **options)

    def _tokens(self, texts: list[str]) -> Any:
        return self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")

    @cached_property
    def _phrases(self) -> list[str]:
        things = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES if shape != "sign"]
        signs = [f"{colour} sign that says {word}" for colour in COLOURS for word in WORDS]
        return [*things, *signs, _BACKGROUND]

    def _phrase_loss(self, patches: torch.Tensor, batch: list[Framed]) -> torch.Tensor:
        """Cross-entropy of each patch over the phrases; background patches are many and count little."""
        import torch
        from torch.nn.functional import cross_entropy, normalize

        seen = self.model.visual_projection(self.model.vision_model.post_layernorm(patches))
        said = self.model.get_text_features(**self._tokens(self._phrases)).pooler_output
        scores = _PHRASE_SCALE * normalize(seen, dim=-1) @ normalize(said, dim=-1).T
        wanted = torch.tensor([self._labels(item) for item in batch]).flatten()
        weights = torch.ones(len(self._phrases))
        weights[-1] = _BACKGROUND_WEIGHT
        return cross_entropy(scores.flatten(0, 1), wanted, weight=weights)

    def _labels(self, item: Framed) -> list[int]:
        """The phrase of each patch: of the front thing in whose box its middle lies, and of the patch at its centre."""
        labels = [len(self._phrases) - 1] * self.grid**2
        for thing in item.scene.things:
            phrase = self._phrases.index(say.phrase(thing, word=True))
            x1, y1, x2, y2 = (value * self.grid for value in item.place(thing.box))
            for row in range(self.grid):
                for column in range(self.grid):
                    if x1 < column + 0.5 < x2 and y1 < row + 0.5 < y2:
                        labels[row * self.grid + column] = phrase
            last = self.grid - 1
            labels[min(int((y1 + y2) / 2), last) * self.grid + min(int((x1 + x2) / 2), last)] = phrase
        return labels


def _planted_pairs(world: Path, side: int) -> tuple[list[str], list[str], list[Framed]]:
    """Kind, alt text and picture of the good and the mismatched rows of a world's URL table."""
    import pyarrow.parquet as pq

    texts = pq.read_table(world / "raw" / "urls" / "urls.parquet").column("TEXT").to_pylist()
    truth = pq.read_table(world / "raw" / "urls" / "truth.parquet").to_pylist()
    rows = [row for row in truth if row["kind"] in ("good", "mismatched")]
    pictures = [Framed(scene=scene("train", row["seed"], side=side), pad=False) for row in rows]
    return [row["kind"] for row in rows], [texts[row["row"]] for row in rows], pictures


def _clip_model(tokenizer: Any, size: int, patch: int, hidden: int, layers: int) -> Any:
    from transformers import CLIPConfig, CLIPModel

    text = {
        "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": _TEXT_LENGTH, "projection_dim": hidden,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        # CLIP pools at the end token; the id 2 would mean the old rule, "the largest id"
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = {
        "image_size": size, "patch_size": patch, "hidden_size": hidden, "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": hidden // 32, "projection_dim": hidden,
    }  # fmt: skip
    assert tokenizer.eos_token_id != 2, "CLIP would pool at the wrong token"
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=hidden))
