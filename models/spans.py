"""Text to tokens that know their characters: the ids of a joined conversation with the span of text behind each.

`<image>` inside the text becomes one image id. Where the tokenizer knows `<image>` as a token of its own, the text is
tokenised in one piece, as a Hugging Face processor does at inference; where it does not, the pieces between images are
tokenised one by one and put together again, as upstream does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llavaflow.infra.errors import InputError
from llavaflow.models.templates import IMAGE
from llavaflow.models.words import Spelled, for_backend

Ints = npt.NDArray[np.int32]


class Tokens(NamedTuple):
    """A tokenised text: ids, the characters [start, end) of each, and the places of the images."""

    ids: Ints
    start: Ints
    end: Ints
    images: npt.NDArray[np.int64]


class SpanTokenizer:
    """A fast tokenizer and what it does of its own accord, worked out once."""

    def __init__(self, tokenizer: Any, image_token_id: int) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(f"{type(tokenizer).__name__} gives no character offsets: load the fast tokenizer")
        self.backend, self.image_id = backend, image_token_id
        self.whole = backend.token_to_id(IMAGE) == image_token_id
        self.bos = _leading_ids(tokenizer)
        self.memory = for_backend(backend, (IMAGE, image_token_id))

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of many texts: word by word from memory where that is exact, else by one call of the tokenizer."""
        self.backend.no_truncation()
        self.backend.no_padding()
        if self.memory is not None:
            spelled = self.memory.encode_batch(texts, lead=self.bos.tolist())
            return [Tokens(*one, np.flatnonzero(one.ids == self.image_id)) for one in spelled]
        if self.whole:
            found = self.backend.encode_batch(list(texts), add_special_tokens=False)
            return [self._whole(_stretched(encoding)) for encoding in found]
        chunks = [text.split(IMAGE) for text in texts]
        flat = iter(self.backend.encode_batch([part for parts in chunks for part in parts], add_special_tokens=False))
        return [self._chunks([(part, _stretched(next(flat))) for part in parts]) for parts in chunks]

    def _whole(self, spelled: Spelled) -> Tokens:
        return self._with_bos(*spelled, np.flatnonzero(spelled.ids == self.image_id))

    def _chunks(self, parts: list[tuple[str, Spelled]]) -> Tokens:
        """Put the pieces between images together again, one image id at every seam."""
        columns: list[tuple[Ints, Ints, Ints]] = []
        images, offset, count = [], 0, 0
        for place, (text, spelled) in enumerate(parts):
            if place:
                images.append(count)
                at = np.array([offset], np.int32)
                columns.append((np.array([self.image_id], np.int32), at, at + np.int32(len(IMAGE))))
                offset, count = offset + len(IMAGE), count + 1
            columns.append((spelled.ids, spelled.start + np.int32(offset), spelled.end + np.int32(offset)))
            offset, count = offset + len(text), count + len(spelled.ids)
        ids, start, end = (np.concatenate(column) for column in zip(*columns, strict=True))
        return self._with_bos(ids, start, end, np.array(images, np.int64))

    def _with_bos(self, ids: Ints, start: Ints, end: Ints, images: npt.NDArray[np.int64]) -> Tokens:
        """The ids that the tokenizer itself puts first, unless the template has already written them."""
        bos = self.bos
        if len(bos) and not np.array_equal(ids[: len(bos)], bos):
            nothing = np.zeros(len(bos), np.int32)
            ids, start, end = (np.concatenate(pair) for pair in ((bos, ids), (nothing, start), (nothing, end)))
            images = images + len(bos)
        return Tokens(ids, start, end, images)

    def single_ids(self, marks: Sequence[str]) -> Ints:
        """Ids of those marks that are one token of this tokenizer."""
        pieces = [self.backend.encode(mark, add_special_tokens=False).ids for mark in marks]
        return np.array([piece[0] for piece in pieces if len(piece) == 1], np.int32)


def _stretched(encoding: Any) -> Spelled:
    """Ids and spans, stretched to the left until they tile the text: some tokenizers leave spaces out."""
    ids = np.array(encoding.ids, np.int32)
    spans = np.array(encoding.offsets, np.int32).reshape(-1, 2)
    end = np.maximum.accumulate(spans[:, 1]) if len(spans) else spans[:, 1]
    before = np.concatenate((np.zeros(1, np.int32), end[:-1]))[: len(end)]
    return Spelled(ids, np.minimum(spans[:, 0], before), end)


def _leading_ids(tokenizer: Any) -> Ints:
    """What the tokenizer puts before a text of its own accord: <s> for Llama, nothing for Qwen."""
    with_special = tokenizer("a", add_special_tokens=True)["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    for place in range(len(with_special) - len(bare) + 1):
        if with_special[place : place + len(bare)] == bare:
            return np.array(with_special[:place], np.int32)
    return np.zeros(0, np.int32)
