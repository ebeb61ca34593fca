"""Benchmark: how one published test is asked, read, joined and scored. One file per benchmark, no model needed.

    gold files --read--> items --join by identity--> (item, answer) pairs --mark--> Scored --> Result

A file in this folder without a leading underscore is a benchmark; its `BENCHMARK` is found by the file's name.
`score` is always the number of the model zoo's column, in its unit. Where the field uses two rules, the other rule's
number stands in `metrics` under a name that says which, and `rule` names the one that made the score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llavaflow.infra.errors import InputError, unknown

if TYPE_CHECKING:
    from llavaflow.datasets.benchmarks._join import Joined

PERCENT = "percent"
BoxFrame = Literal["image", "padded"]
Metrics = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One question to a judge. The same text is asked anew in every `run`, and in every `attempt` until it is read."""

    text: str
    system: str = ""
    temperature: float = 0.0
    max_tokens: int = 1024
    run: int = 0
    attempt: int = 0


# many prompts to their replies, in order, empty for a call that failed; stages/_judging.py reaches it
Judge = Callable[[Sequence[Prompt]], Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One gold question. `names` are the identities under which answer files may know it, the surest first."""

    id: str
    gold: Any
    names: tuple[str, ...]
    text: str = ""
    image: str = ""
    group: str = ""
    options: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One stored answer: the reply, what the file says about its question, and the row it came from.

    `place` is the tool's own count of the questions from 0, which no gold file knows: it is not an id.
    """

    id: str
    text: str
    line: int
    prompt: str = ""
    image: str = ""
    group: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    place: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question as a model is asked it; `picture` is the image's bytes, under the name `image`."""

    id: str
    text: str
    image: str
    picture: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A gold question and its answer; None is an answer that is missing, which is wrong under every rule."""

    item: Item
    answer: Answer | None

    @property
    def text(self) -> str:
        return self.answer.text if self.answer else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """What one answer earned (0..1) and how it was read; `read` is None when the rule could not read the reply."""

    value: float
    read: str | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the caller may choose; nothing here changes a rule except the frame of predicted boxes."""

    allow_missing: bool = False
    box_frame: BoxFrame = "image"
    questions: Path | None = None
    reviews: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a rule makes of all pairs: the score, the other numbers, one mark per pair, remarks for the reader."""

    score: float
    marks: Sequence[Mark]
    metrics: Metrics = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """The score of one answer file and everything needed to print it beside a published one."""

    benchmark: str
    score: float
    metrics: Metrics
    n: int
    missing: int
    unparsed: int
    rule: str
    unit: str
    notes: tuple[str, ...] = ()
    pairs: Sequence[Pair] = ()
    marks: Sequence[Mark] = ()

    def as_json(self) -> dict[str, Any]:
        """The document that `pipeline score --json` prints."""
        names = ("benchmark", "score", "metrics", "n", "missing", "unparsed", "rule", "unit")
        return {name: getattr(self, name) for name in names} | {"notes": list(self.notes)}


Read = Callable[[Path, Options], list[Item]]
Marker = Callable[[Sequence[Pair], Options, Judge | None], Scored]
Names = Callable[[Answer], Iterable[str]]
Ask = Callable[[Path], Iterator[Question]]
Upload = Callable[[Sequence[Pair], Path], None]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark as a plain value; its file's docstring tells the story, these fields do the work."""

    name: str
    title: str
    layout: str
    prompt: str
    rule: str
    source: str
    read: Read
    mark: Marker
    names: Names
    column: str | None = None
    unit: str = PERCENT
    upload: Upload | None = None
    upload_form: str = ""
    # whether nothing but a judge can score it
    judged: bool = False
    # said where answers and gold do not match: the editions of the gold that exist
    editions: str = ""
    # whether the authors gave one id to several questions
    ids_repeat: bool = False
    # the questions with their pictures, where the gold holds both and nobody publishes a question file
    ask: Ask | None = None

    def score(
        self, answers: Sequence[Answer], gold: Path, options: Options | None = None, judge: Judge | None = None
    ) -> Result:
        """Join the answers with the gold and score them. Raises InputError when they do not belong together."""
        options = options or Options()
        joined = self.join(answers, gold, options)
        return self.result(joined.pairs, options, judge, notes=joined.notes, unknown_ids=joined.unknown)

    def join(self, answers: Sequence[Answer], gold: Path, options: Options) -> Joined:
        """The answer of every gold question. Raises InputError when they do not belong together."""
        from llavaflow.datasets.benchmarks._join import join

        items = self.items(gold, options)
        try:
            return join(
                items, answers, self.names, benchmark=self.name, allow_missing=options.allow_missing,
                ids_repeat=self.ids_repeat,
            )  # fmt: skip
        except InputError as error:
            raise InputError(f"{error} {self.editions}".strip()) from error

    def items(self, gold: Path, options: Options) -> list[Item]:
        """The gold questions. Raises InputError for a file that is not this benchmark's."""
        try:
            return self.read(gold, options)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            said = f"{type(error).__name__}: {error}"
            raise InputError(f"{gold} is not gold of {self.name} ({said}). Expected: {self.layout}.") from error

    def result(
        self,
        pairs: Sequence[Pair],
        options: Options | None = None,
        judge: Judge | None = None,
        notes: tuple[str, ...] = (),
        unknown_ids: int = 0,
    ) -> Result:
        """Score pairs that are joined already (a run scores what it has just generated)."""
        scored = self.mark(pairs, options or Options(), judge)
        missing = sum(pair.answer is None for pair in pairs)
        unparsed = sum(mark.read is None for mark, pair in zip(scored.marks, pairs, strict=True) if pair.answer)
        metrics = dict(scored.metrics)
        if missing:
            metrics["answered_only"] = self._answered_only(pairs, options or Options(), judge)
        if unknown_ids:
            metrics["unknown_ids"] = unknown_ids
        return Result(
            benchmark=self.name,
            score=scored.score,
            metrics=metrics,
            n=len(pairs),
            missing=missing,
            unparsed=unparsed,
            rule=f"{self.rule} Source: {self.source}",
            unit=self.unit,
            notes=notes + scored.notes,
            pairs=pairs,
            marks=scored.marks,
        )

    def _answered_only(self, pairs: Sequence[Pair], options: Options, judge: Judge | None) -> float | None:
        answered = [pair for pair in pairs if pair.answer]
        return self.mark(answered, options, judge).score if answered else None


def benchmark_names() -> list[str]:
    """Every benchmark by its command line name, from the files."""
    entries = (entry.name for entry in files("llavaflow.datasets.benchmarks").iterdir())
    return sorted(name[:-3].replace("_", "-") for name in entries if name.endswith(".py") and name[0] != "_")


def load_benchmark(name: str) -> Benchmark:
    """The benchmark of a name. Raises InputError that lists the names that exist."""
    if name not in benchmark_names():
        raise unknown("benchmark", name, benchmark_names(), "datasets/benchmarks/")
    found = import_module(f"llavaflow.datasets.benchmarks.{name.replace('-', '_')}").BENCHMARK
    assert isinstance(found, Benchmark), f"{name}: BENCHMARK is a {type(found).__name__}"
    return found


def variant(base: Benchmark, **changes: Any) -> Benchmark:
    """A benchmark that differs from another in a few fields (RefCOCO+ from RefCOCO, the Chinese MMBench)."""
    return replace(base, **changes)


def mean(values: Iterable[float], scale: float = 100.0) -> float:
    """The mean in percent. Raises InputError for nothing: a score of no questions is not zero."""
    numbers = list(values)
    if not numbers:
        raise InputError("there is no question to score: the gold file selected none.")
    return scale * sum(numbers) / len(numbers)


def grouped(pairs: Sequence[Pair], marks: Sequence[Mark], key: Callable[[Item], str]) -> dict[str, float]:
    """The mean in percent of every group of questions, by the group's name; unnamed questions are left out."""
    groups: dict[str, list[float]] = {}
    for pair, mark in zip(pairs, marks, strict=True):
        name = key(pair.item)
        if name:
            groups.setdefault(name, []).append(mark.value)
    return {name: mean(values) for name, values in sorted(groups.items())}


def score_of(pairs: Sequence[Pair], rule: Callable[[Item, str], Mark]) -> float:
    """The mean in percent of a rule over all pairs."""
    return mean(mark.value for mark in by_marks(rule)(pairs))


def pooled(
    rule: Callable[[Item, str], Mark], metrics: Callable[[Sequence[Pair], Sequence[Mark]], Metrics] | None = None
) -> Marker:
    """The score is the mean of a rule over all questions; `metrics` makes the other numbers from the marks."""

    def mark(pairs: Sequence[Pair], options: Options, judge: Judge | None) -> Scored:
        marks = by_marks(rule)(pairs)
        found = metrics(pairs, marks) if metrics else {}
        return Scored(score=mean(mark.value for mark in marks), marks=marks, metrics=found)

    return mark


def by_marks(rule: Callable[[Item, str], Mark]) -> Callable[[Sequence[Pair]], list[Mark]]:
    """Apply a rule for one answer to all pairs; a missing answer is wrong and not asked about."""

    def mark(pairs: Sequence[Pair]) -> list[Mark]:
        return [rule(pair.item, pair.answer.text) if pair.answer else Mark(value=0.0, read=None) for pair in pairs]

    return mark
