"""A slow reading of the labelling rules that shares no code with models/: pieces written out per template, characters
coloured one by one, tokens laid over the text byte by byte from their own spelling (no offsets)."""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from llavaflow.models.templates import template

IGNORE = -100
Piece = tuple[str, bool]


def pieces(name: str, turns: list[tuple[str, str]], upstream: bool) -> list[Piece]:
    """(text, supervised) of a whole conversation. Of the template under test only its system text is used."""
    system = template(name).system
    said = [(moved(turns[i][1], "mmtag" in name), turns[i + 1][1]) for i in range(0, len(turns), 2)]
    out: list[Piece] = []
    for i, (q, a) in enumerate(said):
        first = i == 0
        if name in ("plain", "v0_plain"):
            out += [("<image>", False), (a + "\n", True)]
        elif name in ("v1", "vicuna_v1", "llava_v1", "v1_mmtag"):
            out += [((system + " " if first else "") + f"USER: {q} ASSISTANT:", False), (f" {a}</s>", True)]
        elif name in ("llama_2", "llava_llama_2"):
            lead = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if first else ""
            out += [(("" if first else "<s>") + f"[INST] {lead}{q} [/INST]", False), (f" {a} </s>", True)]
        elif name == "mistral_instruct":
            out += [(f"[INST] {q} [/INST]", False), (f" {a} </s>", True)]
        elif name in ("mpt", "chatml_direct", "mistral_direct"):
            lead = f"{system}<|im_end|>" if first else ""
            out += [(f"{lead}<|im_start|>user\n{q}<|im_end|><|im_start|>assistant\n", False), (f"{a}<|im_end|>", True)]
        elif name.startswith("qwen"):
            lead = f"{system}<|im_end|>\n" if first else ""
            out += [(f"{lead}<|im_start|>user\n{q}<|im_end|>\n", False), ("<|im_start|>assistant\n", upstream)]
            out += [(f"{a}<|im_end|>", True), ("\n", upstream)]
        elif name == "llava_llama_3":
            head = "<|start_header_id|>{}<|end_header_id|>\n\n"
            lead = f"<|begin_of_text|>{head.format('system')}{system}<|eot_id|>" if first else ""
            out += [(f"{lead}{head.format('user')}{q.strip()}<|eot_id|>", False)]
            out += [(head.format("assistant"), upstream), (f"{a.strip()}<|eot_id|>", True)]
        elif name == "gemma_instruct":
            out += [(f"<start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n", False)]
            out += [(f"{a}<end_of_turn>", True), ("\n", upstream)]
        else:
            out += [((system + "\n\n" if first else ""), False), (f"### Human: {q}\n", False)]
            out += [("### Assistant:", upstream), (f" {a}\n", True)]
    if template(name).style == "single":
        out.append(("### ", upstream))
    return out


def moved(text: str, tags: bool) -> str:
    if text.count("<image>") == 1:
        text = ("<image>\n" + text.replace("<image>", "").strip()).strip()
    return text.replace("<image>", "<Image><image></Image>") if tags else text


def colours(name: str, parts: list[Piece], upstream: bool) -> list[bool]:
    """One flag per byte of the joined text."""
    flags = [flag for text, flag in parts for _ in text.encode()]
    if template(name).style == "single" and not upstream:
        # the answer ends at the next turn's "###"
        text = "".join(text for text, _ in parts).encode()
        for place in range(len(text)):
            after_answer = flags[place - 1] and not flags[place] and text[place : place + 3] == b"###"
            if after_answer:
                flags[place : place + 3] = [True] * 3
    return flags


@cache
def alphabet(tokenizer: Any) -> tuple[frozenset[str], dict[str, int] | None]:
    """Special tokens, and for byte-level tokenizers the byte behind each character of a token."""
    back = {char: value for value, char in bytes_to_unicode().items()}
    return frozenset(tokenizer.all_special_tokens), back if "Ġ" in tokenizer.get_vocab() else None


def spelled(tokenizer: Any, token: str) -> bytes:
    """The bytes a token stands for."""
    special, back = alphabet(tokenizer)
    if token in special:
        return token.encode()
    if back is not None:
        return bytes(back[char] for char in token)
    if len(token) == 6 and token.startswith("<0x"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def spans(tokenizer: Any, ids: list[int], text: str) -> list[tuple[int, int]]:
    """Byte spans by walking along the text; a space that the tokenizer put in front on its own stands for nothing."""
    data, at, out = text.encode(), 0, []
    for token in tokenizer.convert_ids_to_tokens(ids):
        said = spelled(tokenizer, token)
        if not data.startswith(said, at):
            said = said.removeprefix(b" ")
        assert data.startswith(said, at), (token, data[at : at + 20])
        out.append((at, at + len(said)))
        at += len(said)
    assert at == len(data)
    return out


def reference(
    name: str, turns: list[tuple[str, str]], tokenizer: Any, image_id: int, image_tokens: list[int], upstream: bool
) -> tuple[list[int], list[int]]:
    parts = pieces(name, turns, upstream)
    text = "".join(piece for piece, _ in parts)
    flags = colours(name, parts, upstream)
    ids, labels, starts = [], [], []
    at = 0
    knows_image = "<image>" in tokenizer.get_vocab()
    whole = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    for place, chunk in enumerate(text.split("<image>")):
        if place:
            ids.append(image_id)
            labels.append(IGNORE)
            starts.append(at)
            at += len("<image>")
        if knows_image:
            cut = whole.index(image_id) if image_id in whole else len(whole)
            chunk_ids, whole = whole[:cut], whole[cut + 1 :]
        else:
            chunk_ids = list(tokenizer(chunk, add_special_tokens=False)["input_ids"])
        for token, (start, end) in zip(chunk_ids, spans(tokenizer, chunk_ids, chunk), strict=True):
            learned = any(flags[at + start : at + end]) or (start == end and flags[min(at + start, len(flags) - 1)])
            ids.append(token)
            labels.append(token if learned else IGNORE)
            starts.append(at + start)
        at += len(chunk.encode())
    if upstream:
        also_upstream(name, parts, tokenizer, ids, labels, starts)
    return expanded(tokenizer, ids, labels, image_id, image_tokens)


def also_upstream(
    name: str, parts: list[Piece], tokenizer: Any, ids: list[int], labels: list[int], starts: list[int]
) -> None:
    """Tokens that upstream supervises by id (Llama-3, Qwen) or by place (v0: the first two of a human turn)."""
    marks: list[str] = []
    if name == "llava_llama_3":
        marks = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "\n\n"]
    if name.startswith("qwen"):
        marks = ["<|im_start|>", "<|im_end|>", "\n"]
    for mark in marks:
        single = tokenizer(mark, add_special_tokens=False)["input_ids"]
        for place, token in enumerate(ids):
            if single == [token]:
                labels[place] = token
    at = 0
    for text, _ in parts:
        if text.startswith("### Human:"):
            place = next(i for i in range(len(ids)) if i + 1 == len(ids) or starts[i + 1] > at)
            for learned in (place, place + 1):
                labels[learned] = ids[learned]
        at += len(text.encode())


def expanded(
    tokenizer: Any, ids: list[int], labels: list[int], image_id: int, image_tokens: list[int]
) -> tuple[list[int], list[int]]:
    out_ids, out_labels, counts = [], [], iter(image_tokens)
    bos = tokenizer("a")["input_ids"][: -len(tokenizer("a", add_special_tokens=False)["input_ids"])]
    if bos and ids[0] != bos[0]:
        out_ids, out_labels = list(bos), [IGNORE] * len(bos)
    for token, label in zip(ids, labels, strict=True):
        times = next(counts) if token == image_id else 1
        out_ids += [token] * times
        out_labels += [IGNORE if token == image_id else label] * times
    return out_ids, out_labels
