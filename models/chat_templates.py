"""Conversation templates in transformers' form: one Jinja text per template, saved in a checkpoint's processor.

    processor.apply_chat_template(messages, add_generation_prompt=True)     what `Template.prompt` gives
    processor.apply_chat_template(messages)                                 what `Template.text` gives, as trained

A template is a frame round questions and answers. Where upstream asks in another text than it trains on (v0, and the
tagged templates, which answer "Received." to the image first), the Jinja text holds both and takes the one that
`add_generation_prompt` calls for. An image of a message is `{"type": "image"}` or a literal `<image>` in its text; a
single one goes to the front on a line of its own, as everywhere in LLaVA. System messages are refused: the texts of
these templates are part of what a model was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from llavaflow.models.templates import IMAGE, Template


@dataclass(frozen=True, kw_only=True)
class Frame:
    """start: before everything. before, after: round a question. head: before an answer, and all that a prompt ends
    with. gap: between head and answer, left out of a prompt. end: after an answer. again: before a later question."""

    start: str
    before: str = ""
    after: str = ""
    head: str
    gap: str = ""
    end: str
    again: str = ""
    asks: bool = True
    strips: bool = False


def jinja(form: Template) -> str:
    """The Jinja text that renders exactly what `form` does."""
    trained = _FRAMES[form.style](form)
    asked = _single_asked(form, trained) if form.style == "single" else trained
    body = _body(form, trained)
    if asked != trained or "mmtag" in form.name:
        received = form.image_text if "mmtag" in form.name else ""
        body = f"{{%- if add_generation_prompt -%}}{_body(form, asked, received)}{{%- else -%}}{body}{{%- endif -%}}"
    return _content_macro(form) + body


def _two(form: Template) -> Frame:
    human, gpt = form.roles
    return Frame(
        start=form.system + form.sep, before=f"{human}: ", after=form.sep, head=f"{gpt}:", gap=" ", end=form.sep2
    )


def _llama_2(form: Template) -> Frame:
    start = f"[INST] <<SYS>>\n{form.system}\n<</SYS>>\n\n" if form.system else "[INST] "
    return Frame(start=start, head=" [/INST]", gap=" ", end=f" {form.sep2}", again=f"{form.sep}[INST] ")


def _mpt(form: Template) -> Frame:
    human, gpt = form.roles
    return Frame(start=form.system + form.sep, before=human, after=form.sep, head=gpt, end=form.sep)


def _chatml(form: Template) -> Frame:
    human, gpt = form.roles
    line = f"{form.sep}\n"
    return Frame(start=form.system + line, before=f"{human}\n", after=line, head=f"{gpt}\n", end=line)


def _llama_3(form: Template) -> Frame:
    human, gpt = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in form.roles)
    start = f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{form.system.strip()}{form.sep}"
    return Frame(start=start, before=human, after=form.sep, head=gpt, end=form.sep, strips=True)


def _gemma(form: Template) -> Frame:
    human, gpt = form.roles
    return Frame(start="", before=human, after=form.sep, head=gpt, end=form.sep)


def _plain(form: Template) -> Frame:
    return Frame(start="", head="", end=form.sep, asks=False)


def _single(form: Template) -> Frame:
    human, gpt = form.roles
    return Frame(
        start=f"{form.system}\n\n### ", before=f"{human}: ", after="\n### ", head=f"{gpt}:", gap=" ", end="\n### "
    )


def _single_asked(form: Template, trained: Frame) -> Frame:
    """v0 is prompted without the spaces that it trains with, after the demonstration that upstream shows it."""
    shown = "".join(f"{role}: {text}{form.sep}" for role, text in form.demo)
    return replace(trained, start=f"{form.system}{form.sep}{shown}", after=form.sep, end=form.sep)


_FRAMES: dict[str, Callable[[Template], Frame]] = {
    "two": _two,
    "llama_2": _llama_2,
    "mpt": _mpt,
    "chatml": _chatml,
    "llama_3": _llama_3,
    "gemma": _gemma,
    "plain": _plain,
    "single": _single,
}


def _content_macro(form: Template) -> str:
    """The text of a message with its images in place: `place_images` and the template's tags, in Jinja."""
    one = json.dumps(f"{IMAGE}\n")
    return (
        "{%- macro content(message) -%}"
        "{%- set ns = namespace(text='') -%}"
        "{%- if message['content'] is string -%}{%- set ns.text = message['content'] -%}{%- else -%}"
        "{%- for part in message['content'] -%}"
        f"{{%- set ns.text = ns.text + ('{IMAGE}' if part['type'] == 'image' else part['text']) -%}}"
        "{%- endfor -%}{%- endif -%}"
        f"{{%- if ns.text.count('{IMAGE}') == 1 -%}}"
        f"{{%- set ns.text = ({one} + ns.text.replace('{IMAGE}', '').strip()).strip() -%}}"
        "{%- endif -%}"
        f"{{{{- ns.text.replace('{IMAGE}', {_text(form.image_text)}) -}}}}"
        "{%- endmacro -%}"
    )


def _body(form: Template, frame: Frame, received: str = "") -> str:
    """The loop over messages. `received`: an image of the first question is shown in a turn of its own."""
    strip = ".strip()" if frame.strips else ""
    question = f"content(message){strip}" if frame.asks else _text(form.image_text)
    if received:
        bare = f"content(message).replace({_text(received)}, '').strip()"
        alone = f"loop.first and {_text(received)} in content(message)"
        question = f"({bare} if {alone} else {question})"
        turn = [frame.before, received, frame.after, frame.head, frame.gap, "Received.", frame.end, frame.again]
        shown = f"{{%- if {alone} -%}}{_print(''.join(turn))}{{%- endif -%}}"
    else:
        shown = ""
    again = f"{{%- if not loop.first -%}}{_print(frame.again)}{{%- endif -%}}" if frame.again else ""
    return (
        f"{_print(frame.start)}{{%- for message in messages -%}}"
        "{%- if message['role'] == 'user' -%}"
        f"{again}{shown}{_print(frame.before)}{{{{- {question} -}}}}{_print(frame.after)}"
        "{%- elif message['role'] == 'assistant' -%}"
        f"{_print(frame.head + frame.gap)}{{{{- content(message){strip} -}}}}{_print(frame.end)}"
        "{%- else -%}{{- raise_exception('this template has its own system text; roles: user, assistant') -}}"
        "{%- endif -%}{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{_print(frame.head)}{{%- endif -%}}"
    )


def _text(text: str) -> str:
    """A Jinja string literal."""
    return json.dumps(text, ensure_ascii=False)


def _print(text: str) -> str:
    return f"{{{{- {_text(text)} -}}}}" if text else ""
