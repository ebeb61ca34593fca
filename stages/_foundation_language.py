"""The tiny language model: Llama-style, taught to answer from pictures drawn in words, in the templates of LLaVA.

A picture in words is a grid of cells that stand where the patches of a picture will stand; a cell enters as the sum
of the embeddings of its words ("red" + "star"), so that what is asked for can be found in it and read off it. What is
learned from them (the format of an answer, looking something up, counting, boxes) need not be learned again with
pictures. The tokenizer is trained on the raw text of the world and on the instructions of the mixture.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cached_property
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llavaflow.datasets._scenes_chat import chat
from llavaflow.datasets._scenes_told import Exchange, cells, told
from llavaflow.datasets.scenes import Scene
from llavaflow.models.labels import Encoded, encode
from llavaflow.models.templates import template
from llavaflow.stages._foundation_words import language_tokenizer

if TYPE_CHECKING:
    import torch

_CONTEXT = 2048
_MAX_LENGTH = 400
_TEMPLATE = "vicuna_v1"
_CHAT_SHARE = 0.1
# steps whose rows are drawn and sorted together
_GROUP = 4
_HELD_OUT_BATCHES = 4
# how often each fixed text of the mixture counts beside the world's own
_INSTRUCTION_WEIGHT = 20


class Row(NamedTuple):
    """A row of practice; `cells` are the words (token ids) of its picture's cells, in the order of its image tokens."""

    text: Encoded
    cells: list[list[int]]

    def __len__(self) -> int:
        return len(self.text)


class TinyLanguage:
    """A LlamaForCausalLM in training."""

    def __init__(
        self, *, steps: int, batch: int, learning_rate: float, hidden: int, layers: int, vocabulary: int, side: int,
        grid: int, seed: int, world: Path,
    ) -> None:  # fmt: skip
        self.steps, self.batch, self.learning_rate = steps, batch, learning_rate
        self.side, self.seed, self.grid = side, seed, grid
        self.tokenizer = language_tokenizer(_corpus(world, side), vocabulary)
        self._group: tuple[int, list[Row]] = (-1, [])
        self.model = _llama(self.tokenizer, hidden, layers)

    def loss(self, step: int) -> torch.Tensor:
        """Steps come in groups whose rows are sorted by length, so that little of a batch is padding."""
        group, place = divmod(step, _GROUP)
        if group != self._group[0]:
            rows = sorted(self._rows(f"{self.seed}/{group}", _GROUP * self.batch), key=len)
            self._group = group, rows
        return self._loss(self._group[1][place * self.batch : (place + 1) * self.batch])

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def measure(self) -> dict[str, Any]:
        """The loss per answer token on fresh practice."""
        import torch

        with torch.no_grad():
            batches = [self._rows(f"{self.seed}/measure/{number}", self.batch) for number in range(_HELD_OUT_BATCHES)]
            losses = [float(self._loss(rows)) for rows in batches]
        return {"language_loss": round(sum(losses) / len(losses), 4)}

    def _loss(self, rows: list[Row]) -> torch.Tensor:
        import torch

        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), -100)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.from_numpy(row.text.input_ids)
            labels[number, : len(row)] = torch.from_numpy(row.text.labels)
        loss: torch.Tensor = self.model(inputs_embeds=self.embed(ids, rows), labels=labels).loss
        return loss

    def embed(self, ids: torch.Tensor, rows: list[Row]) -> torch.Tensor:
        """float[rows, length, hidden]: token embeddings, and at the image tokens the sums of the cells' words."""
        import torch

        words = [cell for row in rows for cell in row.cells]
        table = self.model.get_input_embeddings()
        embedded: torch.Tensor = table(ids)
        if not words:
            return embedded
        flat = torch.tensor([word for cell in words for word in cell])
        starts = torch.tensor([0, *accumulate(len(cell) for cell in words)][:-1])
        sums = torch.nn.functional.embedding_bag(flat, table.weight, starts, mode="sum")
        return embedded.masked_scatter((ids == self._image)[..., None], sums)

    @cached_property
    def _image(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids("<image>"))

    def _rows(self, name: str, count: int) -> list[Row]:
        rng = random.Random(f"language/{name}")
        return [
            self._encoded(None, _chat(rng)) if rng.random() < _CHAT_SHARE else self._practice(f"{name}/{number}")
            for number in range(count)
        ]

    def _practice(self, name: str) -> Row:
        item = told(name, self.side)
        if item.caption:
            return self._encoded(item.picture, [("", item.caption)], "plain")
        return self._encoded(item.picture, item.exchanges)

    def _encoded(self, picture: Scene | None, exchanges: list[Exchange], form: str = _TEMPLATE) -> Row:
        """One row; a pictured one keeps its image tokens and carries the words of its cells."""
        turns = [turn for asked, said in exchanges for turn in (("human", asked), ("gpt", said))]
        if picture is not None:
            turns[0] = ("human", f"<image>\n{turns[0][1]}" if form == _TEMPLATE else "<image>")
        text = encode(
            turns,
            template=template(form),
            tokenizer=self.tokenizer,
            image_token_id=self._image,
            image_tokens=[self.grid**2] if picture is not None else [],
            max_length=_MAX_LENGTH,
        )
        # practice texts are short and well formed: none is ever refused
        assert isinstance(text, Encoded), text
        return Row(text, [self._words(name) for name in cells(picture, self.grid)] if picture is not None else [])

    def _words(self, cell: str) -> list[int]:
        """The tokens of a cell's words as they stand inside a sentence."""
        ids: list[int] = self.tokenizer(f" {cell}", add_special_tokens=False)["input_ids"]
        return ids


def _chat(rng: random.Random) -> list[Exchange]:
    texts = [turn["value"] for turn in chat("", rng)["conversations"]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _corpus(world: Path, side: int) -> Iterator[str]:
    """The raw texts of the world, practice texts, and the fixed texts that every sample of the mixture repeats."""
    for number in range(600):
        for asked, said in told(f"words/{number}", side).exchanges:
            yield template(_TEMPLATE).text([("human", asked), ("gpt", said)])
    for path in sorted((world / "raw").rglob("*.json")):
        if path.stat().st_size < 4_000_000:
            yield from _strings(json.loads(path.read_bytes()))
    for text in sorted(entry.read_text() for entry in files("llavaflow.stages").joinpath("prompts").iterdir()):
        yield from _INSTRUCTION_WEIGHT * list(_strings(json.loads(text)))


def _strings(value: Any) -> Iterator[str]:
    """Every text with a space in it: sentences, not names of files."""
    if isinstance(value, str):
        if " " in value:
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _llama(tokenizer: Any, hidden: int, layers: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=_CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        # slow rotations: what a word is counts more than how far away it stands
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        # the usual 0.02 suits widths in the thousands; here it would leave attention flat for hundreds of steps
        initializer_range=hidden**-0.5,
    )
    model = LlamaForCausalLM(config)
    # a word that is read can be said from the first step on
    model.lm_head.weight.data.copy_(model.get_input_embeddings().weight.data)
    for layer in model.model.layers:
        _look_for_the_same(layer.self_attn)
    return model


def _look_for_the_same(attention: Any) -> None:
    """Begin with heads that look for what resembles the asking word and copy it: what lookups are made of.

    Found by chance, such heads take a small model most of its training (mimetic initialization, Trockman and Kolter
    2023: query and key alike, value and output each other's inverse).
    """
    import torch

    for one, other, transposed in (
        (attention.q_proj, attention.k_proj, False),
        (attention.v_proj, attention.o_proj, True),
    ):
        torch.nn.init.orthogonal_(one.weight)
        other.weight.data.copy_(one.weight.data.T if transposed else one.weight.data)
