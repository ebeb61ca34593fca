"""RecordFilter: one rule for keeping image-text pairs, in three small parts of which most filters need one or two.

    measure   looks at a batch of pairs and gives one signal (a JSON object) per pair; runs in Ray workers
    verdict   says from one signal whether this pair must go, and why; needs no other pair
    choose    says from all pairs that are left which must go, and why; needs the whole set (duplicates, balance)

Signals are stored by record id, so a run over new URLs measures only those, while `choose` sees old and new alike.
A pair that cannot be measured is failed, not dropped: it is neither good nor bad, and the next refresh tries again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from llavaflow.datasets._shards import ImageTable
from llavaflow.infra.artifact import Json
from llavaflow.models.pixels import open_image
from llavaflow.stages._pairs import Pair

if TYPE_CHECKING:
    from PIL.Image import Image

    from llavaflow.infra.context import RunContext

Signal = Mapping[str, Json]


class Picture:
    """A pair whose image is read and decoded at most once, however many filters look at it."""

    def __init__(self, pair: Pair, images: ImageTable) -> None:
        self.pair = pair
        self._images = images

    @cached_property
    def data(self) -> bytes:
        return self._images.open(self.pair.image)

    @cached_property
    def pixels(self) -> Image:
        """The whole image, decoded, upright, as RGB: what a model will see. Raises ImageError."""
        return open_image(self.data)


Measure = Callable[[Sequence[Picture]], Sequence[Signal]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A pair with the signals of the filters that have looked at it."""

    pair: Pair
    signals: Mapping[str, Signal]


@dataclass(frozen=True, kw_only=True)
class RecordFilter:
    """The base of every filter; `name` is its file's name and the key of its signals."""

    name: ClassVar[str]

    def prepare(self, ctx: RunContext) -> Mapping[str, Json]:
        """What `measurer` needs from the run, such as the folder of a model; called once, in the driver."""
        return {}

    def facts(self) -> Mapping[str, Json]:
        """What a reader must know of this run and no setting says, such as which of two ways the machine had."""
        return {}

    def measurer(self, **prepared: Json) -> Measure | None:
        """The function that measures a batch, made once per worker (models are loaded here); None: nothing to do."""
        return None

    def verdict(self, signal: Signal) -> str | None:
        """The reason to drop a pair with this signal, or None."""
        return None

    def choose(self, records: Iterable[Measured]) -> Iterator[tuple[str, str]]:
        """(id, reason) of every pair to drop among those that are left, given in the order of ids.

        `records` may be gone over again and again and comes from disk each time: keep of a pair only what is needed.
        """
        return iter(())
