"""Turns to token ids and labels: which tokens a language model learns from, decided by characters, never by counting.

The template joins the turns to one text and says which characters are supervised. The text is tokenised once, as a
whole, and each token carries the characters it stands for, so a token is supervised when it covers at least one
supervised character. No tokenizer version can shift such a mask, and a token that straddles a border (the space before
an answer glued to its first word) counts for the answer.

`<image>` becomes `image_tokens[i]` copies of the image token, never supervised. If the tokenizer knows `<image>` the
text is tokenised in one piece around it, as a Hugging Face processor does at inference; if not, the pieces between
images are tokenised one by one, as upstream does.

A sample that does not fit is cut after the last (human, gpt) pair that does; what cannot be used is a `Rejected` with
its reason, never a silent row of -100.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from llavaflow.infra.errors import InputError
from llavaflow.models.spans import Ints, SpanTokenizer, Tokens
from llavaflow.models.templates import IMAGE, Rule, Segment, Template, Turns

IGNORE = -100
# enough work to keep every core of the tokenizer busy, little enough to stay in memory with 100-turn samples
BATCH = 256

Bools = npt.NDArray[np.bool_]

REASONS = {
    "not-alternating": "turns are not human, gpt, human, gpt, ...",
    "empty-question": "a human turn is empty",
    "empty-answer": "a gpt turn is empty",
    "reserved-string": "text holds a mark of the template or a special token of the tokenizer",
    "image-in-answer": "a gpt turn holds <image>",
    "image-count-mismatch": "the number of <image> differs from the number of images",
    "plain-needs-one-image-pair": "template plain takes one <image> and one caption",
    "too-long-first-turn": "the first pair alone is longer than the limit",
    "no-supervised-token": "nothing is left to learn from",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """One sample as arrays. `cut_turns` turns were left off at the end; `images` is how many images are still shown."""

    input_ids: Ints
    labels: Ints
    cut_turns: int = 0
    images: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A sample that must not be trained on: a reason out of REASONS, and what exactly was seen."""

    reason: str
    detail: str = ""


class Item(NamedTuple):
    """What `encode_many` takes: the turns and the token count of each image."""

    turns: Turns
    image_tokens: Sequence[int] = ()


def encode(
    turns: Turns,
    *,
    template: Template,
    tokenizer: Any,
    image_token_id: int,
    image_tokens: Sequence[int] = (),
    max_length: int,
    rule: Rule = "answers",
) -> Encoded | Rejected:
    """One sample; see `encode_many`, which is many times faster on many."""
    return _encoder(template, tokenizer, len(tokenizer), image_token_id, max_length, rule).many(
        [Item(turns, image_tokens)]
    )[0]


def encode_many(
    items: Sequence[Item],
    *,
    template: Template,
    tokenizer: Any,
    image_token_id: int,
    max_length: int,
    rule: Rule = "answers",
) -> list[Encoded | Rejected]:
    """Many samples through one call of the tokenizer per batch; results in the order of the items."""
    encoder = _encoder(template, tokenizer, len(tokenizer), image_token_id, max_length, rule)
    done: list[Encoded | Rejected] = []
    for start in range(0, len(items), BATCH):
        done.extend(encoder.many(items[start : start + BATCH]))
    return done


def encode_prompt(
    turns: Turns, *, template: Template, tokenizer: Any, image_token_id: int, image_tokens: Sequence[int] = ()
) -> Ints:
    """Token ids of the prompt that the assistant's next answer continues, images expanded."""
    encoder = _encoder(template, tokenizer, len(tokenizer), image_token_id, 0, "answers")
    text = template.prompt(turns)
    if text.count(IMAGE) != len(image_tokens):
        raise InputError(f"the prompt holds {text.count(IMAGE)} {IMAGE} but {len(image_tokens)} images were given")
    return encoder.join([Segment(text, False)], image_tokens, encoder.tokens([text])[0]).input_ids


def check(
    turns: Turns, image_count: int, template: Template, reserved: re.Pattern[str] | None = None
) -> Rejected | None:
    """Why a sample cannot be used, before any token is made; None when it can."""
    roles, texts = zip(*turns, strict=True) if turns else ((), ())
    return check_texts(roles, texts, "\0".join(texts), image_count, template, reserved)


def check_texts(
    roles: tuple[str, ...],
    texts: Sequence[str],
    together: str,
    image_count: int,
    template: Template,
    reserved: re.Pattern[str] | None = None,
) -> Rejected | None:
    """`check` for one who has the texts joined by a null character anyway.

    That is searched in one go; which text it was is only asked when something was found.
    """
    if not roles or roles != _alternating(len(roles)):
        return Rejected(reason="not-alternating", detail=", ".join(roles) or "no turns")
    # in nearly all data a "<" stands only where the image does, in the first text: then there is little to search
    marked = texts[0] if together.find("<", len(texts[0])) < 0 else together
    return (
        _check_empty(texts)
        or _check_marks(texts, together, marked, template, reserved)
        or _check_images(texts, marked, image_count, template)
    )


@cache
def _alternating(turns: int) -> tuple[str, ...]:
    """The roles of so many turns; none fit an odd number."""
    return ("human", "gpt") * (turns // 2)


def _check_empty(texts: Sequence[str]) -> Rejected | None:
    if all(map(str.strip, texts)):
        return None
    place = next(place for place, text in enumerate(texts) if not text.strip())
    return Rejected(reason="empty-answer" if place % 2 else "empty-question", detail=f"turn {place}")


def _check_marks(
    texts: Sequence[str], together: str, marked: str, template: Template, reserved: re.Pattern[str] | None
) -> Rejected | None:
    if marked is together and together.find(IMAGE, len(texts[0])) >= 0:
        for place, text in enumerate(texts):
            if place % 2 and IMAGE in text:
                return Rejected(reason="image-in-answer", detail=f"turn {place}")
    if reserved is None:
        if not any([mark in (marked if "<" in mark else together) for mark in template.reserved_strings]):
            return None
    elif not reserved.search(together):
        return None
    found = ((place, _reserved(text, template, reserved)) for place, text in enumerate(texts))
    place, mark = next((place, mark) for place, mark in found if mark is not None)
    return Rejected(reason="reserved-string", detail=f"{mark!r} in turn {place}")


def _check_images(texts: Sequence[str], marked: str, image_count: int, template: Template) -> Rejected | None:
    """Images in answers were refused before, so that those in the whole text are those of the questions."""
    shown = marked.count(IMAGE)
    if shown != image_count:
        return Rejected(reason="image-count-mismatch", detail=f"{shown} {IMAGE} in the text, {image_count} images")
    if template.style == "plain" and (len(texts), shown) != (2, 1):
        return Rejected(reason="plain-needs-one-image-pair", detail=f"{len(texts) // 2} pairs, {shown} images")
    return None


def _reserved(text: str, template: Template, pattern: re.Pattern[str] | None) -> str | None:
    if pattern is None:
        return template.reserved(text)
    found = pattern.search(text)
    return found.group() if found else None


def _reserved_pattern(template: Template, tokenizer: Any) -> re.Pattern[str] | None:
    """The template's marks and every special token of the tokenizer; `<image>` is counted, not refused."""
    marks = {*template.reserved_strings, *tokenizer.all_special_tokens} - {IMAGE, ""}
    return re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))) if marks else None


@lru_cache(maxsize=8)
def _encoder(
    template: Template, tokenizer: Any, size: int, image_token_id: int, max_length: int, rule: Rule
) -> _Encoder:
    return _Encoder(template, tokenizer, image_token_id, max_length, rule)


class _Encoder:
    """Everything about (template, tokenizer) that is worked out once, and the path from turns to arrays."""

    def __init__(self, template: Template, tokenizer: Any, image_token_id: int, max_length: int, rule: Rule) -> None:
        self.template, self.rule, self.max_length = template, rule, max_length
        self.tokens = SpanTokenizer(tokenizer, image_token_id)
        self.reserved = _reserved_pattern(template, tokenizer)
        self.always = self.tokens.single_ids(template.resupervised) if rule == "upstream" else None

    def many(self, items: Sequence[Item]) -> list[Encoded | Rejected]:
        done: list[Encoded | Rejected | None] = [
            check(item.turns, len(item.image_tokens), self.template, self.reserved) for item in items
        ]
        todo = [place for place, result in enumerate(done) if result is None]
        joined = [self.template.segments(items[place].turns, self.rule) for place in todo]
        tokens = self.tokens(["".join([segment.text for segment in segments]) for segments in joined])
        for place, segments, piece in zip(todo, joined, tokens, strict=True):
            done[place] = self._finish(items[place], segments, piece)
        return [result for result in done if result is not None]

    def _finish(self, item: Item, segments: list[Segment], tokens: Tokens) -> Encoded | Rejected:
        encoded = self.join(segments, item.image_tokens, tokens)
        if len(encoded) > self.max_length:
            return self._cut(item, len(encoded))
        if (encoded.labels == IGNORE).all():
            return Rejected(reason="no-supervised-token")
        return encoded

    def _cut(self, item: Item, length: int) -> Encoded | Rejected:
        """The longest run of leading pairs that fits, found by bisection; the image is never cut."""
        fits, pairs = 0, len(item.turns) // 2
        best: Encoded | None = None
        while pairs - fits > 1:
            middle = (fits + pairs) // 2
            turns = item.turns[: 2 * middle]
            images = sum(text.count(IMAGE) for _, text in turns)
            segments = self.template.segments(turns, self.rule)
            text = "".join(segment.text for segment in segments)
            shorter = self.join(segments, item.image_tokens[:images], self.tokens([text])[0])
            if len(shorter) <= self.max_length:
                fits, best = middle, shorter
            else:
                pairs = middle
        if best is None:
            return Rejected(reason="too-long-first-turn", detail=f"{length} tokens in all, limit {self.max_length}")
        cut = len(item.turns) - 2 * fits
        return Encoded(input_ids=best.input_ids, labels=best.labels, cut_turns=cut, images=best.images)

    def join(self, segments: list[Segment], image_tokens: Sequence[int], tokens: Tokens) -> Encoded:
        """Labels from the supervised characters, then every image widened to its tokens."""
        learned = self._learned(segments, tokens)
        labels = np.where(learned, tokens.ids, IGNORE).astype(np.int32)
        ids = tokens.ids
        if len(tokens.images):
            repeats = np.ones(len(ids), np.int64)
            repeats[tokens.images] = image_tokens
            ids, labels = np.repeat(ids, repeats), np.repeat(labels, repeats)
        return Encoded(input_ids=ids, labels=labels, images=len(tokens.images))

    def _learned(self, segments: list[Segment], tokens: Tokens) -> Bools:
        lengths = [len(segment.text) for segment in segments]
        flags = [segment.supervised for segment in segments]
        # supervised characters before a place: they rise by one per character inside supervised segments, else not
        edges = [0, *accumulate(lengths)]
        taught = [0, *accumulate(map(operator.mul, lengths, flags))]
        # a token of no characters (a lone word-start mark) goes with the character that it stands before
        last_char = np.maximum(tokens.end, tokens.start + 1)
        learned: Bools = np.interp(last_char, edges, taught) > np.interp(tokens.start, edges, taught)
        first = 0
        for segment, length in zip(segments, lengths, strict=True):
            if segment.lead_tokens:
                lead = int(np.searchsorted(tokens.end, first, side="right"))
                learned[lead : lead + segment.lead_tokens] = True
            first += length
        if self.always is not None:
            learned |= np.isin(tokens.ids, self.always)
        learned[: len(self.tokens.bos)] &= bool(self.always is not None)
        learned[tokens.images] = False
        return learned
