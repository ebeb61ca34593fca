"""ShareGPT: text-only conversations with an assistant; invalid ones refused, long ones cut.

What Vicuna's cleaning refuses is refused here: nothing said, speakers that do not alternate, empty turns, exact
duplicates. A leading assistant turn and a trailing question are removed. A conversation over the token limit is cut
after its last whole exchange that fits and not split into two; the first exchange always stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llavaflow.datasets._raw import find, rows
from llavaflow.datasets._sample import Role, Sample, Turn
from llavaflow.datasets._source import Reading, Source, rejected

MOST_TOKENS = 2048
# measured on English text under Llama's vocabulary: a safe lower bound of characters per token
CHARACTERS_PER_TOKEN = 4
ROLES: Mapping[str, Role] = {
    "human": "human", "user": "human", "gpt": "gpt", "chatgpt": "gpt", "bing": "gpt", "bard": "gpt", "assistant": "gpt",
}  # fmt: skip


def read(path: Path, reading: Reading) -> Iterator[Sample]:
    """One sample per valid conversation, in file order."""
    file = find(path, "sharegpt.json", "ShareGPT*.json", "*.json", "*.jsonl", source="sharegpt")
    seen: set[str] = set()
    said: set[bytes] = set()

    def build(raw: Mapping[str, Any]) -> Sample:
        number = str(raw["id"])
        parent = f"chat/{number}"
        if number in seen:
            return rejected("sharegpt", parent, "repeated-id")
        seen.add(number)
        turns, fault = conversation(raw["conversations"], reading)
        if fault:
            return rejected("sharegpt", parent, fault)
        mark = hashlib.blake2b("\0".join([turn.text for turn in turns]).encode(), digest_size=16).digest()
        if mark in said:
            return rejected("sharegpt", parent, "duplicate-conversation")
        said.add(mark)
        kept = _cut(turns, reading)
        return Sample(id=number, source="sharegpt", turns=kept, parents=(f"sharegpt:{parent}",), extra={"model": ""})

    yield from reading.each("sharegpt", file, rows(file), build)


def conversation(raw: list[Mapping[str, Any]], reading: Reading) -> tuple[list[Turn], str | None]:
    """Alternating turns that start with a human and end with an answer, or the reason why there are none."""
    turns = []
    for turn in raw:
        role = ROLES.get(str(turn["from"]).lower())
        if role is None:
            reading.repairs["system-turn-removed"] += 1
            continue
        turns.append(Turn(role=role, text=reading.text(turn["value"])))
    if turns and turns[0].role == "gpt":
        reading.repairs["leading-answer-removed"] += 1
        del turns[0]
    if turns and turns[-1].role == "human":
        reading.repairs["open-question-removed"] += 1
        del turns[-1]
    if not turns:
        return turns, "no-conversation"
    if any(turn.role != ("human", "gpt")[place % 2] for place, turn in enumerate(turns)):
        return turns, "not-alternating"
    if not all([turn.text for turn in turns]):
        return turns, "empty-turn"
    return turns, None


def _cut(turns: list[Turn], reading: Reading) -> tuple[Turn, ...]:
    room = MOST_TOKENS * CHARACTERS_PER_TOKEN
    end = 0
    for place in range(0, len(turns), 2):
        room -= len(turns[place].text) + len(turns[place + 1].text)
        if room < 0 and place:
            break
        end = place + 2
    if end < len(turns):
        reading.repairs["long-conversation-cut"] += 1
    return tuple(turns[:end])


SOURCE = Source(
    name="sharegpt",
    title="ShareGPT conversations",
    origin=("https://sharegpt.com (closed)", "https://huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered"),
    licence="none stated: shared by users of ChatGPT, whose terms of use apply",
    layout="""sharegpt.json   [{id, conversations: [{from: human|gpt, value}]}]   (or one record per line)""",
    rule=f"valid conversations only; cut after the last whole exchange within {MOST_TOKENS} tokens "
    f"(estimated at {CHARACTERS_PER_TOKEN} characters each); text only, with the extra field model",
    read=read,
    expected={"samples in mix665k": 40_688},
    drops={
        "no-conversation": "no question with an answer is left",
        "not-alternating": "two turns of one speaker in a row",
        "empty-turn": "a turn without text",
        "duplicate-conversation": "word for word another conversation",
    },
    repairs={
        "system-turn-removed": "a turn of neither side was removed",
        "leading-answer-removed": "an assistant turn before the first question was removed",
        "open-question-removed": "a question without an answer at the end was removed",
        "long-conversation-cut": "exchanges over the token limit were removed from the end",
    },
)
