"""Every template in Jinja renders, through transformers' own renderer, exactly what the template renders."""

from __future__ import annotations

from typing import Any

import pytest

from llavaflow.models.chat_templates import jinja
from llavaflow.models.templates import Template, names, template

IMAGE, TEXT = {"type": "image"}, "text"
ANSWERS = ["A cat.", 'No "cat", <b>bold</b>\n  - größer 你好 {{ x }}']
QUESTIONS = ["<image>\nWhat's this?", "What?\n<image>", "Only text {% if %}", "<image> and <image>", "  spaced  "]


def rendered(text: str, messages: list[dict[str, Any]], ask: bool) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    documents, _ = render_jinja_template([messages], chat_template=text, add_generation_prompt=ask)
    return str(documents[0])


def messages_of(turns: list[tuple[str, str]], as_parts: bool) -> list[dict[str, Any]]:
    roles = {"human": "user", "gpt": "assistant"}
    return [{"role": roles[role], "content": _parts(text) if as_parts else text} for role, text in turns]


def _parts(text: str) -> list[dict[str, str]]:
    pieces = text.split("<image>")
    found = [{"type": TEXT, "text": pieces[0]}]
    for piece in pieces[1:]:
        found += [IMAGE, {"type": TEXT, "text": piece}]
    return found


def forms() -> list[Template]:
    return [template(name, marked) for name in names() for marked in (False, True)]


@pytest.mark.parametrize("form", forms(), ids=lambda form: f"{form.name}-{len(form.image_text)}")
@pytest.mark.parametrize("as_parts", [True, False])
def test_a_conversation_is_rendered_as_trained_and_as_asked(form: Template, as_parts: bool) -> None:
    text = jinja(form)
    for first in QUESTIONS:
        turns = [("human", first), ("gpt", ANSWERS[0]), ("human", "And?"), ("gpt", ANSWERS[1])]
        pairs = turns[:2] if form.style == "plain" else turns
        assert rendered(text, messages_of(pairs, as_parts), ask=False) == form.text(pairs)
        for asked in (turns[:1], [] if form.style == "plain" else turns[:3]):
            if asked:
                assert rendered(text, messages_of(asked, as_parts), ask=True) == form.prompt(asked)


def test_a_system_message_is_refused() -> None:
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="its own system text"):
        rendered(jinja(template("v1")), [{"role": "system", "content": "Be rude."}], ask=False)
