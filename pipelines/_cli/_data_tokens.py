"""A record token by token: which pieces of its text have a label, straight from the arrays that training uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llavaflow.stages._check import Rules


def labelled(turns: Sequence[tuple[str, str]], image_tokens: Sequence[int], rules: Rules) -> dict[str, Any]:
    """The pieces of the joined text between which the labels change, and the numbers of tokens.

    A token belongs to the characters that it stands for; an image is written as `<image x 576>`. What was cut off at
    the length limit is not among the pieces.
    """
    from llavaflow.models.labels import IGNORE, Encoded, Item, encode_many
    from llavaflow.models.spans import SpanTokenizer
    from llavaflow.models.templates import template
    from llavaflow.stages._check_labels import image_token

    form, image_id = template(rules.template), image_token(rules.tokenizer)
    (made,) = encode_many(
        [Item(turns, image_tokens)],
        template=form,
        tokenizer=rules.tokenizer,
        image_token_id=image_id,
        max_length=rules.max_length,
    )
    if not isinstance(made, Encoded):
        return {"fault": f"{made.reason}: {made.detail}", "text": []}
    text = form.text(turns)
    spelled = SpanTokenizer(rules.tokenizer, image_id)([text])[0]
    pieces: list[dict[str, Any]] = []
    place, shown = 0, iter(image_tokens)
    for start, end, is_image in zip(spelled.start, spelled.end, spelled.ids == image_id, strict=True):
        if place >= len(made):
            break
        wide = next(shown) if is_image else 1
        learned = bool(made.labels[place] != IGNORE)
        place += wide
        _append(pieces, f"<image x {wide}>" if is_image else text[start:end], learned)
    counts = {"tokens": len(made), "learned_tokens": int((made.labels != IGNORE).sum()), "cut_turns": made.cut_turns}
    return {"fault": None, "text": pieces, **counts}


def _append(pieces: list[dict[str, Any]], text: str, learned: bool) -> None:
    if pieces and pieces[-1]["learned"] == learned:
        pieces[-1]["text"] += text
    elif text:
        pieces.append({"text": text, "learned": learned})
