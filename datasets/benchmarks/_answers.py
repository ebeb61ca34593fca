"""Stored answers of any tool as `Answer`s.

Read are LLaVA's JSON lines, lmms-eval's samples files (JSON lines, or the older JSON with `logs`), plain id-to-text
JSON, the list and id-to-record forms that evaluation servers and official tools use (GQA, VQA, DocVQA, MMMU,
MathVista, SEED, MM-Vet), ScienceQA's result file, and folders: MME's joined text files, MMMU's `output.json` per
subject. Which question a row answers is left to the join; here a row only gets its id and its reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from llavaflow.datasets.benchmarks._benchmark import Answer
from llavaflow.datasets.benchmarks._files import find_all, load, read_bytes
from llavaflow.infra.errors import InputError

IDS = ("question_id", "questionId", "id", "index", "pid", "sent_id", "qid", "image_id", "image")
# `answer` last: in files of official tools it is the gold, and the reply has a name of its own
TEXTS = ("text", "response", "prediction", "predicted_answer", "outputs", "output", "pred", "pred_answer", "answer")
PROMPTS = ("prompt", "question", "query", "expression", "sent", "sents")
NO_ID = "-1"
# an image names no question; the boxes' metric calls the id its own way
SAMPLE_IDS = (*IDS[:-2], "ann_id")
IMAGES = ("image", "img_path", "imgname", "image_id", "img_id")


def read_answers(path: Path) -> list[Answer]:
    """Every answer of a file or folder. Raises InputError when it is in none of the known forms."""
    if path.is_dir():
        answers = list(_folder(path))
    elif path.suffix == ".txt":
        answers = list(_joined(path))
    else:
        answers = list(_document(load(path), path))
    if not answers:
        raise InputError(f"no answers in {path}: expected JSON lines with question_id and text, or id-to-text JSON.")
    return _without_useless_ids(answers)


def with_questions(answers: list[Answer], questions: Path | None) -> list[Answer]:
    """Fill image, prompt and category of the answers from LLaVA's questions file, joined by question_id."""
    if questions is None:
        return answers
    document = load(questions)
    listed = document.get("questions", []) if isinstance(document, Mapping) else document
    if not isinstance(listed, (list, Mapping)):
        raise InputError(f"{questions} is not a list of questions: expected question_id, image, text.")
    known: dict[str, Mapping[str, Any] | None] = {}
    for number, row in enumerate(listed, start=1):
        if not isinstance(row, Mapping):
            raise InputError(f"{questions}, record {number} is not a question: expected question_id, image, text.")
        name = _first(row, IDS)
        known[name] = None if name in known else row
    return [_filled(answer, known.get(answer.id)) for answer in answers]


def _filled(answer: Answer, row: Mapping[str, Any] | None) -> Answer:
    if row is None:
        return answer
    return replace(
        answer,
        prompt=answer.prompt or str(row.get("text") or row.get("question") or ""),
        image=answer.image or str(row.get("image") or row.get("image_id") or ""),
        group=answer.group or str(row.get("category") or ""),
    )


def _document(document: Any, path: Path) -> Iterator[Answer]:
    if isinstance(document, Mapping):
        logs = document.get("logs")
        if isinstance(logs, list):
            document = logs
        elif isinstance(document.get("outputs"), Mapping):
            document = document["outputs"]
        elif isinstance(document.get("predictions"), (list, Mapping)):
            document = document["predictions"]
    if isinstance(document, Mapping):
        yield from _by_id(document, path)
    elif isinstance(document, list):
        for line, row in enumerate(document, start=1):
            if not isinstance(row, Mapping):
                raise InputError(f"{path}, record {line} is not an object but {type(row).__name__}.")
            yield _answer(row, line, path)
    else:
        raise InputError(f"{path} holds neither records nor an id-to-text object.")


def _by_id(document: Mapping[str, Any], path: Path) -> Iterator[Answer]:
    if any(name in document for name in ("question_id", "doc_id", "questionId")):
        yield _answer(document, 1, path)  # a JSON lines file of one line
        return
    for line, (name, value) in enumerate(document.items(), start=1):
        if isinstance(value, Mapping):
            yield _answer(value, line, path, name=name)
        elif isinstance(value, list):
            for number, reply in enumerate(value):
                yield Answer(id=f"{name}#{number}", text=_plain(reply), line=line)
        else:
            yield Answer(id=name, text=_plain(value), line=line)


def _answer(row: Mapping[str, Any], line: int, path: Path, name: str | None = None) -> Answer:
    if "doc_id" in row:
        return _sample(row, line)
    for key in TEXTS:
        if key in row:
            text = row[key]
            break
    else:
        text = _direct(row)
        if text is None:
            raise InputError(f"{path}, record {line} has no reply: expected one of {', '.join(TEXTS)}.")
    return Answer(
        id=name if name is not None else _first(row, IDS),
        text=_plain(text),
        line=line,
        prompt=_first(row, PROMPTS),
        image=_first(row, IMAGES),
        group=str(row.get("category") or ""),
        row=row,
    )


def _direct(row: Mapping[str, Any]) -> Any:
    """A-OKVQA's predictions hold two replies to one question; either stands for the row."""
    return row.get("multiple_choice", row.get("direct_answer"))


def _sample(row: Mapping[str, Any], line: int) -> Answer:
    """One line of an lmms-eval samples file: the filtered reply is what its own metric saw.

    Newer versions leave the document out; the ids and categories that it had are then in the values of the metrics.
    """
    doc = row.get("doc")
    doc = doc if isinstance(doc, Mapping) else {}
    values = [value for value in row.values() if isinstance(value, Mapping) and value is not doc]
    reply = row.get("filtered_resps") or row.get("resps") or ""
    while isinstance(reply, list):
        reply = reply[0] if reply else ""
    return Answer(
        id=next((id for known in (doc, *values) if (id := _first(known, SAMPLE_IDS))), ""),
        text=_plain(reply),
        line=line,
        prompt=_first(doc, PROMPTS) or _first(row, ("input",)),
        image=str(doc.get("image_source") or doc.get("image_id") or ""),
        group=next((group for known in (doc, *values) if (group := _first(known, ("category",)))), ""),
        row={**doc, **{key: value for key, value in row.items() if key not in ("doc", "arguments")}},
        place=int(row["doc_id"]) if str(row["doc_id"]).isdecimal() else None,
    )


def _folder(folder: Path) -> Iterator[Answer]:
    joined = sorted(folder.glob("*.txt"))
    for path in joined:
        yield from _joined(path)
    if not joined:
        for path in dict.fromkeys(find_all(folder, "output.json", "answers.jsonl", "merge.jsonl", "*.jsonl")):
            yield from _document(load(path), path)
            if path.name != "output.json":
                return


def _joined(path: Path) -> Iterator[Answer]:
    """One category of MME as the official tool takes it: image, question, gold, reply, separated by tabs."""
    try:
        lines = read_bytes(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a UTF-8 text: {error}.") from error
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        parts = text.split("\t")
        if len(parts) != 4:
            raise InputError(f"{path}, line {line} has {len(parts)} columns, not image, question, gold and reply.")
        image = f"{path.stem}/{PurePosixPath(parts[0]).stem}"
        yield Answer(id=image, text=parts[3], line=line, prompt=parts[1], image=image, group=path.stem)


def _without_useless_ids(answers: list[Answer]) -> list[Answer]:
    """Drop an id that says nothing (ChartQA's published lines have -1 throughout)."""
    if {answer.id for answer in answers} == {NO_ID}:
        return [replace(answer, id="") for answer in answers]
    return answers


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        value = row.get(name)
        if value is not None and not isinstance(value, (Mapping, list)):
            return str(value)
    return ""


def _plain(value: Any) -> str:
    """A reply as text; some tools wrap it in a list of one."""
    if isinstance(value, list) and len(value) == 1:
        return _plain(value[0])
    return "" if value is None else str(value)
