"""What a teacher wrote, taken apart: dialogues of `Question:` and `Answer:` blocks between `===` lines, or plain text.

Tolerated, because models write so: blank lines, answers of several paragraphs, numbered lists, a missing or repeated
separator at the end, text on the line of the label, bold labels. Refused by name: anything whose turns do not pair up.
"""

from __future__ import annotations

import re

from llavaflow.datasets._sample import IMAGE_TOKEN

_SEPARATOR = re.compile(r"^[ \t]*={3,}[ \t\r]*$", re.MULTILINE)
_LABEL = re.compile(r"^[*_#\s]*(question|answer)[*_\s]*:[*_]*\s*", re.IGNORECASE)
_BOX = re.compile(r"[\[(]\s*[01]?\.\d+\s*,\s*[01]?\.\d+")

# reasons, as they appear in facts.dropped
REASONS = {
    "empty-answer": "the teacher wrote nothing, or a turn without text",
    "unlabelled-block": "a block that is neither a question nor an answer",
    "odd-turns": "questions and answers do not alternate, or the last question has no answer",
    "several-questions": "one question was asked for and more came",
    "mentions-boxes": "coordinates of boxes in the text",
    "image-token": "the reserved image token in the text",
}


class Unusable(Exception):
    """An answer that cannot become a record."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parse_dialogue(text: str) -> list[tuple[str, str]]:
    """The (question, answer) pairs of a conversation. Raises Unusable."""
    turns = [_labelled(block) for block in _SEPARATOR.split(text) if block.strip()]
    if not turns:
        raise Unusable("empty-answer")
    labels = [label for label, _ in turns]
    if labels != ["question", "answer"] * (len(turns) // 2):
        raise Unusable("odd-turns")
    return [(turns[at][1], turns[at + 1][1]) for at in range(0, len(turns), 2)]


def parse_reasoning(text: str) -> list[tuple[str, str]]:
    """The one (question, answer) pair of a reasoning task. Raises Unusable."""
    pairs = parse_dialogue(text)
    if len(pairs) != 1:
        raise Unusable("several-questions")
    return pairs


def parse_description(text: str) -> str:
    """The text of a detailed description. Raises Unusable."""
    body = text.strip()
    if match := _LABEL.match(body):
        if match[1].lower() == "question":
            raise Unusable("unlabelled-block")
        body = body[match.end() :].strip()
    return _usable(body)


def _labelled(block: str) -> tuple[str, str]:
    body = block.strip()
    match = _LABEL.match(body)
    if match is None:
        raise Unusable("unlabelled-block")
    return match[1].lower(), _usable(body[match.end() :].strip())


def _usable(text: str) -> str:
    if not text:
        raise Unusable("empty-answer")
    if IMAGE_TOKEN in text:
        raise Unusable("image-token")
    if _BOX.search(text):
        raise Unusable("mentions-boxes")
    return text
