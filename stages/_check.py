"""The gate before GPU time: every record of a LLaVA JSON file is looked at, and what is wrong is told by record.

Form, alternation and image tokens; images exist, decode and are what their suffix says; strings that the template
reads as its own marks; lengths with image tokens against the limit, estimated, or exact with a tokenizer (then the
labels are made too, and a record from which nothing would be learned is found); duplicates; overlap with evaluation
sets. Errors are what would stop or silently spoil a training run, warnings what it can live with.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from llavaflow.datasets._images import Probe, probe
from llavaflow.datasets._records import Images
from llavaflow.models.images import PINPOINTS_336, PINPOINTS_384, ImageRule, count_tokens
from llavaflow.models.labels import Item, Rejected, check_texts
from llavaflow.models.templates import template
from llavaflow.stages._check_labels import Labeller, Length
from llavaflow.stages._check_record import Fault, Finding, Record, name_of, parse
from llavaflow.stages._collection import no_collection

if TYPE_CHECKING:
    from llavaflow.stages._check_leaks import EvaluationSets

# enough work for all cores, which decode images or make tokens; with neither, what a core's cache holds: half the time
IMAGES_BATCH, TOKENS_BATCH, SMALL_BATCH = 256, 2048, 32
# Llama's vocabulary on English text; on the safe side for lengths
CHARACTERS_PER_TOKEN = 3.5
TEMPLATE_TOKENS = 50
# the released rules of LLaVA-1.6 and LLaVA-NeXT, by the name that `--image-tokens` takes
IMAGE_RULES = {
    "anyres-336": ImageRule(aspect="anyres", pinpoints=PINPOINTS_336),
    "anyres-384": ImageRule(aspect="anyres", size=384, pinpoints=PINPOINTS_384, crop=False),
}
# what two records may differ in and still be nearly the same; bytes are many times faster here than a pattern
_WORDLESS = f"{string.punctuation}{string.whitespace}\0".encode()
_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the gate holds records against.

    images        where the images are; None leaves them alone
    image_tokens  tokens that one image takes, or the rule by which they follow from its size (`anyres`)
    tokenizer     for exact lengths and labels; None estimates
    """

    template: str = "v1"
    max_length: int = 2048
    image_tokens: int | ImageRule = 576
    images: Images | None = None
    tokenizer: Any = None
    against: EvaluationSets | None = None


class Checked(NamedTuple):
    """A record with everything found on it; `record` is None when it has no proper form."""

    number: int
    raw: Any
    record: Record | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_error]


@dataclass(kw_only=True)
class Gate:
    """One pass over a file. `lengths` and `probes` can be read while and after it runs."""

    rules: Rules
    lengths: Counter[int] = field(default_factory=Counter)
    probes: dict[str, Probe] = field(default_factory=dict)
    _ids: set[str] = field(default_factory=set)
    _words: dict[int, int] = field(default_factory=dict)

    def examine(self, rows: Iterable[Any]) -> Iterator[Checked]:
        """Every row with its findings, in order."""
        numbered = enumerate(rows)
        rules = self.rules
        size = IMAGES_BATCH if rules.images else TOKENS_BATCH if rules.tokenizer else SMALL_BATCH
        with ExitStack() as stack:
            stack.enter_context(no_collection())
            threads = stack.enter_context(ThreadPoolExecutor())
            labeller = Labeller(rules.tokenizer, rules.template, rules.max_length) if rules.tokenizer else None
            if labeller:
                stack.enter_context(labeller)
            while batch := list(islice(numbered, size)):
                yield from self._batch(batch, threads, labeller)

    def _batch(
        self, batch: Sequence[tuple[int, Any]], threads: ThreadPoolExecutor, labeller: Labeller | None
    ) -> list[Checked]:
        parsed = [self._parse(number, raw) for number, raw in batch]
        records = [record for record, _ in parsed if record]
        if self.rules.images is not None:
            names = dict.fromkeys(name for record in records for name in record.images if name not in self.probes)
            self.probes.update(zip(names, threads.map(self._probe, names), strict=True))
        labelled = iter(self._labels(records, labeller))
        return [
            Checked(number, raw, record, tuple(found if record is None else self._look(record, raw) + next(labelled)))
            for (number, raw), (record, found) in zip(batch, parsed, strict=True)
        ]

    def _parse(self, number: int, raw: Any) -> tuple[Record | None, list[Finding]]:
        try:
            return parse(raw, number), []
        except Fault as fault:
            return None, [Finding(number, name_of(raw, number), fault.kind, str(fault))]

    def _look(self, record: Record, raw: dict[str, Any]) -> list[Finding]:
        found = self._identity(record, raw)
        if record.texts != list(map(str.strip, record.texts)):
            found.append(("edge-whitespace", ""))
        if self.rules.images is not None:
            found += self._images(record)
        if self.rules.against is not None:
            found += self.rules.against.overlap(record)
        return [Finding(record.number, record.id, kind, detail) for kind, detail in found] if found else []

    def _identity(self, record: Record, raw: dict[str, Any]) -> list[tuple[str, str]]:
        """Repeated ids and repeated content, exact or but for case and punctuation.

        Python's own hashes do: of a hundred million records, two would share all 64 bits once in ten thousand times.
        """
        found = []
        if type(raw.get("id")) is not str:
            found.append(("id-not-text", repr(raw.get("id"))))
        if record.id in self._ids:
            found.append(("repeated-id", ""))
        self._ids.add(record.id)
        text = "\0".join([*record.images, record.together])
        exact, known = hash(text), len(self._words)
        first = self._words.setdefault(hash(_bare(text)), exact)
        if len(self._words) == known:
            found.append(("duplicate-record" if first == exact else "near-duplicate", ""))
        return found

    def _images(self, record: Record) -> list[tuple[str, str]]:
        found = []
        for name in record.images:
            look = self.probes[name]
            if look.fault:
                found.append((look.fault, f"{name}{': ' if look.detail else ''}{look.detail}"))
            elif not look.fits(name):
                found.append(("wrong-extension", f"{name} is {look.format}"))
        return found

    def _probe(self, name: str) -> Probe:
        assert self.rules.images is not None
        data = self.rules.images.load(name)
        return Probe(fault="missing-image") if data is None else probe(data)

    def _labels(self, records: list[Record], labeller: Labeller | None) -> list[list[Finding]]:
        """Length and labels of every record, in their order; what the template or the tokenizer refuses."""
        results: Sequence[Length | Rejected | int]
        if labeller is None:
            form = template(self.rules.template)
            results = [
                check_texts(record.roles, record.texts, record.together, len(record.images), form)
                or self._estimate(record)
                for record in records
            ]
        else:
            results = labeller.lengths(
                [Item(record.turns, [self._tokens(name) for name in record.images]) for record in records]
            )
        return [self._judge(record, result) for record, result in zip(records, results, strict=True)]

    def _estimate(self, record: Record) -> int:
        turns = len(record.texts)
        images = sum([self._tokens(name) for name in record.images])
        return TEMPLATE_TOKENS + int((len(record.together) - turns + 1) / CHARACTERS_PER_TOKEN) + 5 * turns + images

    def _tokens(self, image: str) -> int:
        rule = self.rules.image_tokens
        return rule if isinstance(rule, int) else tokens_of(rule, self.probes.get(image, Probe()))

    def _judge(self, record: Record, result: Length | Rejected | int) -> list[Finding]:
        if isinstance(result, Rejected):
            return [Finding(record.number, record.id, result.reason, result.detail)]
        length, cut = (result, 0) if isinstance(result, int) else result
        self.lengths[length] += 1
        if cut:
            return [Finding(record.number, record.id, "cut-to-max-length", f"{cut} turns")]
        if length > self.rules.max_length:
            return [Finding(record.number, record.id, "over-max-length", f"about {length} tokens")]
        return []


def tokens_of(rule: int | ImageRule, look: Probe) -> int:
    """Tokens of one image; one that cannot be seen counts as a square of a tile's side."""
    return rule if isinstance(rule, int) else count_tokens(rule, look.width or rule.size, look.height or rule.size)


def _bare(text: str) -> bytes:
    """A text without case, punctuation and space."""
    if text.isascii():
        return text.encode().translate(_LOWER, _WORDLESS)
    return text.lower().encode("utf-8", "surrogatepass").translate(None, _WORDLESS)


def census(lengths: Counter[int]) -> dict[str, int]:
    """Length statistics: the sizes that decide whether a limit is right."""
    total = sum(lengths.values())
    if not total:
        return {"records": 0}
    ranked = sorted(lengths.items())
    mean = sum(length * count for length, count in ranked) // total
    marks = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {"records": total, "mean": mean} | {name: _rank(ranked, share * total) for name, share in marks.items()}


def _rank(ranked: Sequence[tuple[int, int]], wanted: float) -> int:
    seen = 0
    for length, count in ranked:
        seen += count
        if seen >= wanted:
            return length
    return ranked[-1][0]
