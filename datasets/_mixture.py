"""Mixtures as values: which sources in which shares make the training sets of LLaVA-1.5 and LLaVA-1.6.

A part names a source, how much of it is taken, and the published count that the result is held against. Sampling is
NeXT's notation: `all`, `first:N`, `end:N`, `random:N`, with N a number or a percentage (rounded up). The draw of
`random` depends on the seed and the part's name alone, so every process draws the same.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from llavaflow.infra.errors import InputError

_SAMPLING = re.compile(r"(?:(first|end|random):)?(?:([0-9]+)|([0-9]+(?:\.[0-9]+)?)%)")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One component of a published mixture.

    expected     published number of records
    unpublished  why its data cannot be had, "" when it can
    substitute   an open source in its place, by name
    """

    name: str
    source: str
    sampling: str = "all"
    expected: int | None = None
    with_image: bool = True
    unpublished: str = ""
    substitute: str = ""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A published mixture: its parts in order, and the published total."""

    name: str
    title: str
    parts: tuple[Part, ...]
    expected: int

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)


def chosen(sampling: str, count: int, *, seed: int, name: str) -> Sequence[int]:
    """The positions of the records that are taken, ascending. Raises InputError for an unknown notation."""
    if sampling == "all":
        return range(count)
    match = _SAMPLING.fullmatch(sampling)
    if match is None:
        raise InputError(f"sampling '{sampling}' of {name} is not all, first:N, end:N, random:N or N% (N may be N%).")
    how, number, percent = match.groups()
    # exact, since 10,000 times 0.07 is more than 700 in floating point
    wanted = int(number) if number else math.ceil(count * Fraction(percent) / 100)
    taken = min(wanted, count)
    if how == "first":
        return range(taken)
    if how == "end":
        return range(count - taken, count)
    return sorted(random.Random(f"{seed}/sample/{name}").sample(range(count), taken))


# Counts: LLaVA issue 702, sum-checked against the released file. The only published sample size is OCR-VQA's.
MIX665K = Mixture(
    name="mix665k",
    title="LLaVA-1.5 instruction mixture (llava_v1_5_mix665k.json)",
    expected=665_298,
    parts=(
        Part(name="llava-instruct", source="llava-json", expected=157_712),
        Part(name="sharegpt", source="sharegpt", expected=40_688, with_image=False),
        Part(name="vqav2", source="vqav2", expected=82_783),
        Part(name="gqa", source="gqa", expected=72_140),
        Part(name="okvqa", source="okvqa", expected=8_998),
        Part(name="ocrvqa", source="ocrvqa", sampling="random:80000", expected=80_000),
        Part(name="aokvqa", source="aokvqa", expected=66_160),
        Part(name="textcaps", source="textcaps", expected=21_953),
        Part(name="refcoco", source="refcoco", expected=48_447),
        Part(name="vg", source="vg", expected=86_417),
    ),
)

_WITHHELD = "never published; the count is known from the authors' training script"

# LLaVA-1.6: TextCaps out (it shares images with TextVQA), documents and charts in, and answers of GPT-4V.
LLAVA16_MIX = Mixture(
    name="llava16-mix",
    title="LLaVA-1.6 (NeXT) instruction mixture, about 760,000 to 790,000 records",
    expected=779_289,
    parts=(
        *(part for part in MIX665K.parts if part.name != "textcaps"),
        Part(name="sharegpt4v", source="sharegpt4v", expected=None),
        Part(name="docvqa", source="docvqa", expected=None),
        Part(name="synthdog", source="synthdog", expected=None),
        Part(name="chartqa", source="chartqa", expected=None),
        Part(name="dvqa", source="dvqa", expected=None),
        Part(name="ai2d", source="ai2d", expected=None),
        Part(
            name="llava-wild-4v-39k",
            source="llava-json",
            expected=39_000,
            unpublished=_WITHHELD,
            substitute="ALLaVA-Instruct-VFLAN-4V (as in Open-LLaVA-NeXT-mix1M)",
        ),
        Part(
            name="llava-wild-4v-12k",
            source="llava-json",
            expected=12_000,
            unpublished=_WITHHELD,
            substitute="ALLaVA-Instruct-VFLAN-4V (as in Open-LLaVA-NeXT-mix1M)",
        ),
        Part(
            name="mathv360k-tqa",
            source="llava-json",
            expected=10_181,
            unpublished=_WITHHELD,
            substitute="MathV360K, its TQA part",
        ),
        Part(
            name="mathv360k-vqa-as",
            source="llava-json",
            expected=5_907,
            unpublished=_WITHHELD,
            substitute="MathV360K, its VQA-AS part",
        ),
        Part(
            name="mathv360k-vqa-rad",
            source="llava-json",
            expected=2_130,
            unpublished=_WITHHELD,
            substitute="MathV360K, its VQA-RAD part",
        ),
        Part(
            name="evol-instruct-gpt4-turbo",
            source="llava-json",
            expected=143_000,
            with_image=False,
            unpublished=_WITHHELD,
            substitute="WizardLM evol-instruct-V2-143k",
        ),
        Part(
            name="instruct-azure-dc-zh",
            source="llava-json",
            expected=92_000,
            with_image=False,
            unpublished=_WITHHELD,
            substitute="LLaVA-NeXT-Data, its Chinese rows",
        ),
    ),
)

MIXTURES = {mixture.name: mixture for mixture in (MIX665K, LLAVA16_MIX)}
