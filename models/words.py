"""Tokenising by memory: the words of a corpus repeat, so each is tokenised once and looked up ever after.

This is exact, not approximate, and only done where it is: with a BPE whose tokens cannot reach from a letter over a
space into the next word (the steps before it cut there, or its vocabulary has no such token), a text is the sum of its
pieces cut before each space that follows a non-space. A piece is learned in the context that it has:
first in a text, first after a special token, or behind another word. Where the checks fail, `for_backend` gives None
and the tokenizer itself does the work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]

# about 100 MB; beyond it the memory starts anew
MOST_WORDS = 400_000
_FILLER = "x"
# a space that does not begin a piece: at the start, or after other whitespace
_UNEVEN = re.compile(r"^ |\s ")
_UNEVEN_ASCII = [f"{chr(code)} " for code in range(128) if chr(code).isspace()]
# a token that reaches over the end of a word into the next: word-start marks and the byte-level spellings of blanks
_CROSSING = re.compile(r"[^▁ĠĊĉčĈ\s][▁Ġ ]")
# bytes of an id in a packed piece
_ID = 4
_STEPS = {"Prepend", "NFC", "Metaspace", "ByteLevel", "Digits"}
# the splits of Llama-3 and Qwen2: no alternative matches a non-space and then a space
_SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}", r"\p{N}{1,3}")
}


class Spelled(NamedTuple):
    """Ids of a text and the characters [start, end) behind each; the spans tile the text."""

    ids: Ints
    start: Ints
    end: Ints


class _Section(NamedTuple):
    """Text between special tokens, in pieces; `mark` is the special token in front of it, if any."""

    mark: str
    first: str
    rest: list[str]


class _Context(NamedTuple):
    """What stands before a piece while it is learned: so many of its last characters, and all but its first tokens,
    are the piece's own."""

    before: str
    own: int
    tokens: int


class WordMemory:
    """A tokenizer and the pieces it has already tokenised, as packed (id, characters taken, characters shared).

    `image` is a mark that the tokenizer need not know: what follows it is tokenised as a text of its own.
    """

    def __init__(self, backend: Any, marks: Sequence[str], image: tuple[str, int]) -> None:
        self.backend = backend
        ids = {**{mark: backend.token_to_id(mark) for mark in marks}, **dict([image])}
        self.marks = {"": b"", **{mark: _packed([(token, len(mark), 0)]) for mark, token in ids.items()}}
        self.contexts = {"": _Context("", 0, 0), image[0]: _Context("", 0, 0)}
        self.contexts |= {mark: _Context(mark, 0, 1) for mark in marks}
        self.behind = _Context(f"{_FILLER} ", 1, len(backend.encode(_FILLER, add_special_tokens=False).ids))
        self.split = re.compile("(" + "|".join(map(re.escape, sorted(ids, key=len, reverse=True))) + ")")
        self.forget()

    def forget(self) -> None:
        self.after: dict[str, dict[str, bytes]] = {mark: {"": b""} for mark in self.marks}
        self.inside: dict[str, bytes] = {}

    def encode_batch(self, texts: Sequence[str], lead: Sequence[int] = ()) -> list[Spelled]:
        """What the tokenizer's own `encode_batch` gives, from memory where it can; `lead` goes first if it is not."""
        cut = [self._sections(text) for text in texts]
        self._learn(chain.from_iterable(cut))
        first = _packed([(token, 0, 0) for token in lead])
        return [self._look_up(sections, first) for sections in cut]

    def _sections(self, text: str) -> list[_Section]:
        parts = self.split.split(text)
        marks = ["", *parts[1::2]]
        return [_Section(mark, *_pieces(section)) for mark, section in zip(marks, parts[::2], strict=True)]

    def _look_up(self, sections: list[_Section], lead: bytes) -> Spelled:
        found: list[bytes] = []
        for mark, first, rest in sections:
            found += (self.marks[mark], self.after[mark][first])
            found += map(self.inside.__getitem__, rest)
        packed = b"".join(found)
        return _spelled(packed if packed[:_ID] == lead[:_ID] else lead + packed)

    def _learn(self, sections: Iterable[_Section]) -> None:
        """Tokenise the pieces never seen before."""
        if len(self.inside) > MOST_WORDS:
            self.forget()
        starts: dict[str, set[str]] = {}
        inside: set[str] = set()
        for mark, first, rest in sections:
            starts.setdefault(mark, set()).add(first)
            inside.update(rest)
        for mark, pieces in starts.items():
            self._add(self.after[mark], pieces, self.contexts[mark])
        self._add(self.inside, inside, self.behind)

    def _add(self, memory: dict[str, bytes], pieces: set[str], context: _Context) -> None:
        new = sorted(pieces - memory.keys())
        found = self.backend.encode_batch([context.before + piece for piece in new], add_special_tokens=False)
        origin = len(context.before) - context.own
        for piece, encoding in zip(new, found, strict=True):
            offsets = [(start - origin, end - origin) for start, end in encoding.offsets[context.tokens :]]
            memory[piece] = _packed(_steps(encoding.ids[context.tokens :], offsets, len(piece) + context.own))


def for_backend(backend: Any, image: tuple[str, int]) -> WordMemory | None:
    """The memory for this tokenizer, or None where cutting at words could change a token."""
    added = backend.get_added_tokens_decoder().values()
    plain = [token.content for token in added if not (token.lstrip or token.rstrip or token.single_word)]
    if len(plain) != len(added) or not _is_plain_bpe(backend.model):
        return None
    if not all(_stays_inside_words(step) for step in (backend.normalizer, backend.pre_tokenizer)):
        return None
    if not _cuts_words(backend.pre_tokenizer) and any(map(_CROSSING.search, backend.get_vocab(False))):
        return None
    # an `<image>` of the tokenizer's own under another id is not the one meant
    return WordMemory(
        backend, [mark for mark in plain if mark != image[0] or backend.token_to_id(mark) == image[1]], image
    )


def _is_plain_bpe(model: Any) -> bool:
    if type(model).__name__ != "BPE":
        return False
    return not (model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix)


def _stays_inside_words(step: Any) -> bool:
    return step is None or _is_known(json.loads(step.__getstate__()))


def _cuts_words(step: Any) -> bool:
    """Whether the steps before the BPE cut at words themselves, so that no token can reach over a space."""
    state: dict[str, Any] = json.loads(step.__getstate__()) if step is not None else {"type": ""}
    parts: list[dict[str, Any]] = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    return any(part["type"] == "Split" or part.get("use_regex") or part.get("split") for part in parts)


def _is_known(state: dict[str, Any]) -> bool:
    kind = state["type"]
    if kind == "Sequence":
        return all(_is_known(part) for part in state.get("normalizers") or state.get("pretokenizers") or [])
    if kind == "Replace":
        return bool(state["pattern"] == {"String": " "} and state["content"] == "▁")
    if kind == "Split":
        return state["pattern"].get("Regex") in _SPLITS and not state["invert"]
    return kind in _STEPS


def _pieces(section: str) -> tuple[str, list[str]]:
    """The first piece, and the others without the space that each begins with."""
    words = section.split(" ")
    if _is_plain(section, words) or not _is_uneven(section):
        return words[0], words[1:]
    joined = [words[0]]
    for word in words[1:]:
        last = joined[-1]
        # a space after whitespace, or at the very start, does not begin a piece
        if (len(joined) == 1 and not last) or (last[-1:] or " ").isspace():
            joined[-1] = f"{last} {word}"
        else:
            joined.append(word)
    return joined[0], joined[1:]


def _is_plain(section: str, words: list[str]) -> bool:
    """A quick sign that no space stands first or after white space: two spaces leave an empty word between them, and
    of all other white space only line breaks may be there."""
    if "" in words[:-1] or "\n " in section:
        return False
    return section.replace("\n", "").isprintable()


def _is_uneven(section: str) -> bool:
    if not section.isascii():
        return _UNEVEN.search(section) is not None
    # plain searches are ten times as fast as the pattern
    return section[:1] == " " or any([pair in section for pair in _UNEVEN_ASCII])


def _steps(ids: list[int], offsets: list[tuple[int, int]], length: int) -> list[tuple[int, int, int]]:
    """Spans as steps, stretched until they tile the piece: some tokenizers leave spaces out of their offsets."""
    steps, at = [], 0
    for place, (token, (start, end)) in enumerate(zip(ids, offsets, strict=True)):
        end = length if place == len(ids) - 1 else max(at, end)
        steps.append((token, end - at, max(0, at - start)))
        at = end
    return steps


def _packed(steps: list[tuple[int, int, int]]) -> bytes:
    return np.array(steps, np.int32).tobytes()


def _spelled(packed: bytes) -> Spelled:
    steps = np.frombuffer(packed, np.int32).reshape(-1, 3)
    end = np.cumsum(steps[:, 1], dtype=np.int32)
    return Spelled(steps[:, 0].copy(), end - steps[:, 1] - steps[:, 2], end)
