"""The gate before GPU time: every record of a LLaVA JSON file is looked at, and what is wrong is told by record.

Form, alternation and image tokens; images exist, decode and are what their suffix says; strings that the template
reads as its own marks; lengths with image tokens against the limit, estimated, or exact with a tokenizer (then the
labels are made too, and a record from which nothing would be learned is found); duplicates; overlap with evaluation
sets. Errors are what would stop or silently spoil a training run, warnings what it can live with.
"""

from __future__ import annotations

import hashlib
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from llavaflow.datasets._images import Probe, probe
from llavaflow.datasets._records import Images
from llavaflow.models.images import PINPOINTS_336, PINPOINTS_384, ImageRule, count_tokens
from llavaflow.models.labels import Encoded, Item, Rejected, check, encode_many
from llavaflow.models.templates import template
from llavaflow.stages._check_record import Fault, Finding, Record, name_of, parse
from llavaflow.stages._collection import no_collection

if TYPE_CHECKING:
    from llavaflow.stages._check_leaks import EvaluationSets

BATCH = 256
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
    _words: dict[bytes, bytes] = field(default_factory=dict)

    def examine(self, rows: Iterable[Any]) -> Iterator[Checked]:
        """Every row with its findings, in order."""
        numbered = enumerate(rows)
        with ThreadPoolExecutor() as threads, no_collection():
            while batch := list(islice(numbered, BATCH)):
                yield from self._batch(batch, threads)

    def _batch(self, batch: Sequence[tuple[int, Any]], threads: ThreadPoolExecutor) -> list[Checked]:
        parsed = [self._parse(number, raw) for number, raw in batch]
        records = [record for record, _ in parsed if record]
        if self.rules.images is not None:
            names = dict.fromkeys(name for record in records for name in record.images if name not in self.probes)
            self.probes.update(zip(names, threads.map(self._probe, names), strict=True))
        labelled = self._labels(records)
        return [
            Checked(
                number=number,
                raw=raw,
                record=record,
                findings=tuple(found + (self._look(record, raw) + labelled[number] if record else [])),
            )
            for (number, raw), (record, found) in zip(batch, parsed, strict=True)
        ]

    def _parse(self, number: int, raw: Any) -> tuple[Record | None, list[Finding]]:
        try:
            return parse(raw, number), []
        except Fault as fault:
            return None, [Finding(number, name_of(raw, number), fault.kind, str(fault))]

    def _look(self, record: Record, raw: dict[str, Any]) -> list[Finding]:
        found = self._identity(record, raw)
        if any([text != text.strip() for _, text in record.turns]):
            found.append(("edge-whitespace", ""))
        found += self._images(record)
        if self.rules.against is not None:
            found += self.rules.against.overlap(record)
        return [Finding(record.number, record.id, kind, detail) for kind, detail in found]

    def _identity(self, record: Record, raw: dict[str, Any]) -> list[tuple[str, str]]:
        """Repeated ids and repeated content, exact or but for case and punctuation."""
        found = []
        if type(raw.get("id")) is not str:
            found.append(("id-not-text", repr(raw.get("id"))))
        if record.id in self._ids:
            found.append(("repeated-id", ""))
        self._ids.add(record.id)
        text = "\0".join([*record.images, *[text for _, text in record.turns]])
        exact = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        plain = text.lower().encode("utf-8", "surrogatepass").translate(None, _WORDLESS)
        loose = hashlib.blake2b(plain, digest_size=8).digest()
        first = self._words.setdefault(loose, exact)
        if first is not exact:
            found.append(("duplicate-record" if first == exact else "near-duplicate", ""))
        return found

    def _images(self, record: Record) -> list[tuple[str, str]]:
        if self.rules.images is None:
            return []
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

    def _labels(self, records: list[Record]) -> dict[int, list[Finding]]:
        """Length and labels of every record; what the template or the tokenizer refuses."""
        items = [Item(record.turns, [self._tokens(name) for name in record.images]) for record in records]
        form = template(self.rules.template)
        results: Sequence[Encoded | Rejected | int]
        if self.rules.tokenizer is None:
            results = [check(item.turns, len(item.image_tokens), form) or _estimate(item) for item in items]
        else:
            tokenizer = self.rules.tokenizer
            results = encode_many(
                items,
                template=form,
                tokenizer=tokenizer,
                image_token_id=image_token(tokenizer),
                max_length=self.rules.max_length,
            )
        return {record.number: self._judge(record, result) for record, result in zip(records, results, strict=True)}

    def _tokens(self, image: str) -> int:
        rule = self.rules.image_tokens
        return rule if isinstance(rule, int) else tokens_of(rule, self.probes.get(image, Probe()))

    def _judge(self, record: Record, result: Encoded | Rejected | int) -> list[Finding]:
        if isinstance(result, Rejected):
            return [Finding(record.number, record.id, result.reason, result.detail)]
        length = result if isinstance(result, int) else len(result)
        self.lengths[length] += 1
        if isinstance(result, Encoded) and result.cut_turns:
            return [Finding(record.number, record.id, "cut-to-max-length", f"{result.cut_turns} turns")]
        if length > self.rules.max_length:
            return [Finding(record.number, record.id, "over-max-length", f"about {length} tokens")]
        return []


def tokens_of(rule: int | ImageRule, look: Probe) -> int:
    """Tokens of one image; one that cannot be seen counts as a square of a tile's side."""
    return rule if isinstance(rule, int) else count_tokens(rule, look.width or rule.size, look.height or rule.size)


def _estimate(item: Item) -> int:
    characters = sum([len(text) for _, text in item.turns])
    return TEMPLATE_TOKENS + int(characters / CHARACTERS_PER_TOKEN) + 5 * len(item.turns) + sum(item.image_tokens)


def image_token(tokenizer: Any) -> int:
    """The id that stands for an image: the tokenizer's own, or one past its end for a dry run."""
    number = tokenizer.convert_tokens_to_ids("<image>")
    known = isinstance(number, int) and number != tokenizer.unk_token_id
    return int(number) if known else len(tokenizer)


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
