"""Conversation templates: how turns become the exact text a language model reads, and which part of it is learned.

    template("v1").segments([("human", "<image>\\nWhat is it?"), ("gpt", "A cat.")])
        Segment("A chat ... USER: <image>\\nWhat is it? ASSISTANT:", supervised=False)
        Segment(" A cat.</s>", supervised=True)

The texts themselves (system messages, role marks, separators) are data in `_template_texts.json`, equal byte for byte
to the upstream files named there. A segment is supervised when it is what the model must produce after the prompt: the
answer, the space or newline that the prompt leaves out, and the end mark. `rule="upstream"` adds what upstream's
maskers supervise beyond that: role headers and trailing newlines (Llama-3, Qwen, v0), and single tokens
(`resupervised`, `lead_tokens`) that only the tokenised text can show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from llavaflow.infra.errors import InputError, unknown

Rule = Literal["answers", "upstream"]
Turns = Sequence[tuple[str, str]]
IMAGE = "<image>"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the joined text. `lead_tokens`: so many of its first tokens are supervised although it is not."""

    text: str
    supervised: bool
    lead_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Template:
    """One conversation format.

    families      language model families it was made for; ("any",) has no role marks to clash with
    stop          strings that end an answer
    reserved_strings  strings with a meaning in this format: data that holds one is refused
    resupervised  tokens that rule "upstream" supervises wherever they stand
    demo          turns that upstream puts before the first question at inference
    image_text    what stands for an image ("<image>", or the same inside tags)
    """

    name: str
    style: str
    system: str
    roles: tuple[str, str]
    sep: str
    sep2: str
    families: tuple[str, ...]
    stop: tuple[str, ...]
    reserved_strings: tuple[str, ...]
    resupervised: tuple[str, ...] = ()
    demo: tuple[tuple[str, str], ...] = ()
    image_text: str = IMAGE

    def segments(self, turns: Turns, rule: Rule = "answers") -> list[Segment]:
        """The training text of (human, gpt) pairs, as pieces that are or are not supervised."""
        return list(_STYLES[self.style](self, _pairs(self, turns), rule))

    def text(self, turns: Turns) -> str:
        """The training text in one string."""
        return "".join(segment.text for segment in self.segments(turns))

    def prompt(self, turns: Turns) -> str:
        """The text that ends where the assistant's answer to the last human turn begins."""
        return _PROMPTS.get(self.style, _prompt)(self, list(turns))

    def reserved(self, text: str) -> str | None:
        """The first string in `text` that this format would read as a mark of its own."""
        for mark in self.reserved_strings:
            if mark in text:
                return mark
        return None

    def stop_token_ids(self, tokenizer: Any) -> list[int]:
        """Ids that end an answer: the stop strings that are one token of this tokenizer, and its end-of-text token."""
        marks = {tokenizer.convert_tokens_to_ids(mark) for mark in self.stop} - {tokenizer.unk_token_id}
        return sorted((marks | {tokenizer.eos_token_id}) - {None})

    def with_im_start_end(self) -> Template:
        """The variant of `mm_use_im_start_end`: every image between <im_start> and <im_end>."""
        return replace(self, image_text=self.image_text.replace(IMAGE, f"<im_start>{IMAGE}<im_end>"))


def template(name: str, im_start_end: bool = False) -> Template:
    """The template of this name; an unknown name is an error, never a silent default."""
    rows = _rows()
    if name not in rows:
        raise unknown("template", name, rows, "models/_template_texts.json")
    return rows[name].with_im_start_end() if im_start_end else rows[name]


def names() -> list[str]:
    """Every template name, aliases included."""
    return sorted(_rows())


def for_family(family: str) -> list[str]:
    """Templates made for a language model family, or for any."""
    return sorted(name for name, row in _rows().items() if {family, "any"} & set(row.families))


def place_images(text: str) -> str:
    """Move a single `<image>` to the front, on a line of its own, as upstream's data loaders do.

    Several in one turn stay where they are (LLaVA-NeXT's rule), because collapsing them would lose images.
    """
    if text.count(IMAGE) != 1:
        return text
    return f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()


@cache
def _rows() -> dict[str, Template]:
    data = json.loads(files("llavaflow.models").joinpath("_template_texts.json").read_text("utf-8"))
    return {name: _row(name, row) for row in data["templates"] for name in row["names"]}


def _row(name: str, row: dict[str, Any]) -> Template:
    lists = {key: tuple(row[key]) for key in ("families", "stop")}
    return Template(
        name=name,
        style=row["style"],
        system=row["system"],
        roles=(row["roles"][0], row["roles"][1]),
        sep=row["sep"],
        sep2=row["sep2"],
        reserved_strings=tuple(row["reserved"]),
        resupervised=tuple(row.get("resupervised", ())),
        demo=tuple((role, text) for role, text in row.get("demo", ())),
        image_text=row.get("image_text", IMAGE),
        **lists,
    )


def _pairs(form: Template, turns: Turns) -> list[tuple[str, str]]:
    """(question, answer) pairs with images in place; the caller has checked that the turns alternate."""
    roles = [role for role, _ in turns]
    if roles != ["human", "gpt"] * (len(turns) // 2):
        raise InputError(f"template {form.name}: turns must alternate human, gpt; got {roles}")
    asked = [_with_image(form, text) for _, text in turns[::2]]
    return list(zip(asked, (text for _, text in turns[1::2]), strict=True))


def _with_image(form: Template, text: str) -> str:
    return place_images(text).replace(IMAGE, form.image_text) if IMAGE in text else text


def _plain(form: Template, pairs: list[tuple[str, str]], rule: Rule) -> Iterator[Segment]:
    # the question never reaches the model: a caption follows its bare image
    for _, answer in pairs:
        yield Segment(form.image_text, False)
        yield Segment(answer + form.sep, True)


def _two(form: Template, pairs: list[tuple[str, str]], rule: Rule) -> Iterator[Segment]:
    human, gpt = form.roles
    start = form.system + form.sep
    for question, answer in pairs:
        yield Segment(f"{start}{human}: {question}{form.sep}{gpt}:", False)
        yield Segment(f" {answer}{form.sep2}", True)
        start = ""


def _llama_2(form: Template, pairs: list[tuple[str, str]], rule: Rule) -> Iterator[Segment]:
    # the first <s> is left to the tokenizer, the later ones are text
    start = f"[INST] <<SYS>>\n{form.system}\n<</SYS>>\n\n" if form.system else "[INST] "
    for question, answer in pairs:
        yield Segment(f"{start}{question} [/INST]", False)
        yield Segment(f" {answer} {form.sep2}", True)
        start = f"{form.sep}[INST] "


def _mpt(form: Template, pairs: list[tuple[str, str]], rule: Rule) -> Iterator[Segment]:
    human, gpt = form.roles
    start = form.system + form.sep
    for question, answer in pairs:
        yield Segment(f"{start}{human}{question}{form.sep}{gpt}", False)
        yield Segment(answer + form.sep, True)
        start = ""


def _chatml(form: Template, pairs: list[tuple[str, str]], rule: Rule) -> Iterator[Segment]:
    human, gpt = form.roles
    start = f"{form.system}{form.sep}\n"
    for question, answer in pairs:
        yield Segment(f"{start}{human}\n{question}{form.sep}\n", False)
        yield Segment(f"{gpt}\n", rule == "upstream")
        yield Segment(answer + form.sep, True)
        yield Segment("\n", rule == "upstream")
        start = ""


def _llama_3(form: Template, pairs: list[tuple[str, str]], rule: Rule) -> Iterator[Segment]:
    human, gpt = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in form.roles)
    start = f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{form.system.strip()}{form.sep}"
    for question, answer in pairs:
        yield Segment(f"{start}{human}{question.strip()}{form.sep}", False)
        yield Segment(gpt, rule == "upstream")
        yield Segment(answer.strip() + form.sep, True)
        start = ""


def _gemma(form: Template, pairs: list[tuple[str, str]], rule: Rule) -> Iterator[Segment]:
    human, gpt = form.roles
    for question, answer in pairs:
        yield Segment(f"{human}{question}{form.sep}{gpt}", False)
        yield Segment(answer + form.sep.rstrip("\n"), True)
        yield Segment("\n", rule == "upstream")


def _single(form: Template, pairs: list[tuple[str, str]], rule: Rule) -> Iterator[Segment]:
    """v0 trains on a roomier text ("### Human: ...\\n") than it is prompted with ("###Human: ...###")."""
    human, gpt = form.roles
    yield Segment(f"{form.system}\n\n", False)
    if rule == "answers":
        mark = "### "
        for question, answer in pairs:
            yield Segment(f"{mark}{human}: {question}\n### {gpt}:", False)
            yield Segment(f" {answer}\n###", True)
            mark = " "
        yield Segment(" ", False)
        return
    for question, answer in pairs:
        yield Segment(f"### {human}: {question}\n", False, lead_tokens=2)
        yield Segment(f"### {gpt}: {answer}\n", True)
    yield Segment("### ", True)


_STYLES: dict[str, Callable[[Template, list[tuple[str, str]], Rule], Iterator[Segment]]] = {
    "plain": _plain,
    "two": _two,
    "llama_2": _llama_2,
    "mpt": _mpt,
    "chatml": _chatml,
    "llama_3": _llama_3,
    "gemma": _gemma,
    "single": _single,
}


def _prompt(form: Template, turns: list[tuple[str, str]]) -> str:
    """The training text up to the first character of the answer still to come."""
    marker = "\0"
    if not turns or turns[-1][0] != "human":
        raise InputError(f"template {form.name}: a prompt ends with a human turn")
    whole = form.text([*_received(form, turns), ("gpt", marker)])
    return whole[: whole.rindex(marker)].removesuffix(" ")


def _received(form: Template, turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The tagged templates show the image in a turn of its own, answered "Received."; only at inference."""
    role, text = turns[0]
    if "mmtag" not in form.name or IMAGE not in text:
        return turns
    question = (role, text.replace(IMAGE, "").strip())
    return [("human", IMAGE), ("gpt", "Received."), question, *turns[1:]]


def _prompt_single(form: Template, turns: list[tuple[str, str]]) -> str:
    if not turns or turns[-1][0] != "human":
        raise InputError(f"template {form.name}: a prompt ends with a human turn")
    said = [(form.roles[role == "gpt"], text) for role, text in _received(form, turns)]
    lines = [f"{role}: {_with_image(form, text)}{form.sep}" for role, text in [*form.demo, *said]]
    return f"{form.system}{form.sep}{''.join(lines)}{form.roles[1]}:"


_PROMPTS: dict[str, Callable[[Template, list[tuple[str, str]]], str]] = {"single": _prompt_single}
