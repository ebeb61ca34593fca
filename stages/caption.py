"""Caption: BLIP writes a caption for every image, and each becomes one record of a pretraining set as LCS-558K has it.

    {"id", "image", "conversations": [{"from": "human", "value": "<instruction>\\n<image>"}, {"from": "gpt", ...}]}

The instruction is drawn from the eleven phrasings of the LLaVA paper and stands before or after the image; the draw
depends on the seed and the record's id alone. `meta.jsonl` keeps id, image, url and caption like LCS-558K's meta file.
A refresh captions only images that the previous generation did not have. Without a model each image keeps the text
that it was found with, as CC3M-595K has it.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from llavaflow.datasets._index import IndexWriter, sha256_bytes
from llavaflow.datasets._sample import IMAGE_TOKEN, Sample, Turn, to_llava
from llavaflow.datasets._shards import ImageTable, ShardWriter
from llavaflow.datasets._source import source
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import StageFailed
from llavaflow.models.pixels import ImageError, open_image
from llavaflow.stages._card import Card, write_card
from llavaflow.stages._chunks import chunked, resumable
from llavaflow.stages._jsonl import JsonLines
from llavaflow.stages._pairs import Pair, read_pairs
from llavaflow.stages._pretrained import Pretrained
from llavaflow.stages._stage import Stage

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCE = "caption"
META = "meta.jsonl"


@dataclass(frozen=True, kw_only=True)
class Caption(Stage):
    """Caption the images of `data` with the BLIP `model` by beam search over `beams` (1: greedy).

    model  None keeps the text that came with each image
    """

    kind: ClassVar[Kind] = "mixture"
    folders_by_content: ClassVar[bool] = True

    data: Stage
    model: Pretrained | None
    beams: int = 1
    max_new_tokens: int = 64
    batch_size: int = 32
    seed: int = 0
    images_per_shard: int = 1000

    def run(self, ctx: RunContext) -> Artifact:
        root = ctx.path(self.data)
        pairs = read_pairs(root)
        captions = self._known(ctx, pairs) if self.model else {pair.id: pair.caption.strip() for pair in pairs}
        faults: dict[str, str] = {}
        reused = len(captions) if self.model else 0
        todo = [pair for pair in pairs if pair.id not in captions]
        for rows in resumable(
            ctx,
            "caption",
            chunked(todo, self.batch_size),
            make_captioner,
            lambda: self._arguments(ctx, root),
            lambda row: row,
            total=len(todo),
        ):
            captions |= {row["id"]: row["caption"] for row in rows}
            faults |= {row["id"]: row["fault"] for row in rows if row["fault"]}
        dropped = self._write(ctx, root, pairs, captions, faults)
        samples = len(pairs) - dropped.total()
        if not samples:
            cause = f"look at the model {self.model.name}" if self.model else "none was found with a text"
            raise StageFailed(f"no caption for any of {len(pairs)} images: {cause}.")
        write_card(ctx.out, self._card(ctx, samples, dropped))
        return ctx.finish({"samples": samples, "reused": reused, "dropped": dict(sorted(dropped.items()))})

    def _card(self, ctx: RunContext, samples: int, dropped: Mapping[str, int]) -> Card:
        if self.model:
            how = f"a caption written by {self.model.name} ({'beam search' if self.beams > 1 else 'greedy'})"
            terms = "captions: the terms of the model that wrote them"
        else:
            how, terms = "the text that it was found with", "captions: alt texts of web pages"
        return Card(
            title=f"Captions for pretraining, in the form of {'LCS-558K' if self.model else 'CC3M-595K'}",
            form="conversations",
            fingerprint=ctx.fingerprint,
            samples=samples,
            about=[f"{samples:,} images, each with a brief instruction and {how}."],
            licences=[source("url-table").licence, terms],
            dropped=dropped,
        )

    def _arguments(self, ctx: RunContext, root: Path) -> dict[str, Any]:
        assert self.model is not None, "without a model there is nothing to compute"
        model = self.model.resolve(ctx)
        return {"model": model, "root": root, "beams": self.beams, "max_new_tokens": self.max_new_tokens}

    def _known(self, ctx: RunContext, pairs: Sequence[Pair]) -> dict[str, str]:
        """The captions of the previous generation for images that are still the same."""
        if ctx.previous is None:
            return {}
        wanted = {pair.id: pair.sha256 for pair in pairs}
        rows = JsonLines(ctx.store.local_path(ctx.previous) / META).read()
        return {row["id"]: row["blip_caption"] for row in rows if wanted.get(row["id"]) == row["sha256"]}

    def _write(
        self,
        ctx: RunContext,
        root: Path,
        pairs: Sequence[Pair],
        captions: Mapping[str, str],
        faults: Mapping[str, str],
    ) -> Counter[str]:
        images, up = ImageTable(root), ctx.artifact(self.data).fingerprint
        dropped: Counter[str] = Counter()
        (ctx.out / META).unlink(missing_ok=True)
        with (
            ShardWriter(ctx.out, per_shard=self.images_per_shard) as shards,
            IndexWriter(ctx.out) as index,
            JsonLines(ctx.out / META) as meta,
            (ctx.out / "data.jsonl").open("wb") as data,
        ):
            for pair in pairs:
                caption, parents = captions[pair.id], [f"{up}:{pair.id}"]
                if not caption:
                    reason = faults.get(pair.id, "empty-caption")
                    dropped[reason] += 1
                    index.add(pair.id, source=SOURCE, parents=parents, url=pair.url, dropped=reason)
                    continue
                line = json.dumps(to_llava(self._sample(pair, caption)), ensure_ascii=False).encode()
                data.write(line + b"\n")
                row = len(shards)
                kind = "blip_caption" if self.model else "caption"
                notes = {"id": pair.id, "image": pair.image, "url": pair.url, kind: caption}
                placed = shards.add(pair.image, images.open(pair.image), notes, width=pair.width, height=pair.height)
                meta.append({**notes, "sha256": pair.sha256})
                common: dict[str, Any] = {"source": SOURCE, "parents": parents, "url": pair.url}
                index.add(pair.id, sha256=sha256_bytes(line), file="data.jsonl", row=row, **common)
                index.add(f"image/{pair.image}", sha256=placed.sha256, file=placed.file, row=placed.row, **common)
        return dropped

    def _sample(self, pair: Pair, caption: str) -> Sample:
        dice = random.Random(f"{self.seed}/{pair.id}")
        parts = [dice.choice(brief_instructions()), IMAGE_TOKEN]
        dice.shuffle(parts)
        turns = (Turn(role="human", text="\n".join(parts)), Turn(role="gpt", text=caption))
        return Sample(id=pair.id, source=SOURCE, images=(pair.image,), turns=turns)


@cache
def brief_instructions() -> tuple[str, ...]:
    """The phrasings that ask for a brief description, as published."""
    text = (files("llavaflow.stages") / "prompts" / "instructions.json").read_text()
    return tuple(json.loads(text)["brief"])


def make_captioner(
    *, model: str, root: Path, beams: int, max_new_tokens: int
) -> Callable[[list[Sequence[Pair]]], list[list[dict[str, str]]]]:
    """A worker's function: captions chunks of pairs with a BLIP that is loaded once."""
    import torch
    from transformers import BlipForConditionalGeneration, BlipProcessor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    blip: Any = BlipForConditionalGeneration.from_pretrained(model)
    blip = blip.to(device).eval()
    processor: Any = BlipProcessor.from_pretrained(model)
    images = ImageTable(root)

    def describe(pictures: list[Image]) -> list[str]:
        inputs = processor(images=pictures, return_tensors="pt").to(device)
        with torch.inference_mode():
            tokens = blip.generate(**inputs, num_beams=beams, max_new_tokens=max_new_tokens, do_sample=False)
        return [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    def caption(chunk: Sequence[Pair]) -> list[dict[str, str]]:
        pictures = {pair.id: picture for pair in chunk if (picture := _decoded(images.open(pair.image)))}
        texts = dict(zip(pictures, describe(list(pictures.values())), strict=True)) if pictures else {}
        return [
            {"id": pair.id, "caption": texts.get(pair.id, ""), "fault": "" if pair.id in texts else "corrupt-image"}
            for pair in chunk
        ]

    return lambda chunks: [caption(chunk) for chunk in chunks]


def _decoded(data: bytes) -> Image | None:
    """The image, upright, or None when it does not decode in full."""
    try:
        return open_image(data)
    except ImageError:
        return None
