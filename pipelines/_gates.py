"""Gates: what can be seen to go wrong before anything is rented or started. One small function is one gate.

A gate takes a Preflight and yields a Problem for everything that is wrong: what, where, and how to mend it. Its name
is the function's. Those here look at this computer and its surroundings, `_gates_training` at the recipe, `_gates_data`
at records. Which known trouble each gate meets is a table in tests/pipelines/test_gates.py.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar, cast

from llavaflow.infra.errors import InputError, LlavaflowError
from llavaflow.infra.machine import Machine
from llavaflow.infra.store import ArtifactStore
from llavaflow.pipelines._job import TrainingJob, read_job, texts
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages._identity import Resolved, resolve
from llavaflow.stages._stage import Stage
from llavaflow.stages._trackers import SETTING as TRACKERS
from llavaflow.stages.base import Base
from llavaflow.stages.evaluate import Evaluate
from llavaflow.stages.judge import Judge
from llavaflow.stages.own_data import OwnData
from llavaflow.stages.synthesize import Synthesize
from llavaflow.stages.train import Train

T = TypeVar("T")
GIB = 2**30
FREE_GIB = 3.0
MEMORY_GIB = 6.0
PAGES = (4200, 4201)
GATED = ("meta-llama/", "mistralai/mistral-7b-instruct", "google/gemma")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong, where it was seen, and how to mend it. A warning does not fail the check."""

    what: str
    where: str
    mend: str
    warning: bool = False


@dataclass(frozen=True)
class Preflight:
    """What gates look at."""

    recipe: Recipe
    store: ArtifactStore
    machine: Machine
    _memory: dict[str, object] = field(default_factory=dict)

    def remembered(self, key: str, make: Callable[[], T]) -> T:
        """What several gates look at, worked out once."""
        if key not in self._memory:
            self._memory[key] = make()
        return cast(T, self._memory[key])

    @cached_property
    def resolved(self) -> Mapping[str, Resolved]:
        """The recipe against the store; empty when that cannot be told (the gates `files` and `store` say why)."""
        try:
            return resolve(self.recipe.stages, self.store, recipe=self.recipe.name)
        except (LlavaflowError, OSError):
            return {}

    def waiting(self) -> Iterator[tuple[str, Stage]]:
        """The stages that a run would have to make."""
        for name, stage in self.recipe.stages.items():
            if name not in self.resolved or self.resolved[name].artifact is None:
                yield name, stage

    def of_type(self, name: str) -> list[tuple[str, Stage]]:
        return [(key, stage) for key, stage in self.waiting() if stage.type_name() == name]


Gate = Callable[[Preflight], Iterator[Problem]]


def packages(preflight: Preflight) -> Iterator[Problem]:
    """Every package that we declare, and that a stage wants beside them, is there in a version within its bounds."""
    from packaging.requirements import Requirement

    for line in metadata.requires("llavaflow") or ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Problem(what=f"{requirement.name} is not installed", where=sys.prefix, mend=f"pip install '{line}'")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            what = f"{requirement.name} {found} is outside {requirement.specifier}"
            yield Problem(what=what, where=sys.prefix, mend=f"pip install '{line}'")

    quantized = [name for name, stage in preflight.waiting() if isinstance(stage, Train) and _rounded(stage)]
    if quantized and find_spec("bitsandbytes") is None:
        what = "bitsandbytes is not installed, which holds the language model in few bits"
        yield Problem(what=what, where=f"{quantized[0]}.lora.quantization", mend="pip install 'llavaflow[qlora]'")


def _rounded(stage: Train) -> bool:
    return stage.lora is not None and stage.lora.quantization is not None


def backport(_: Preflight) -> Iterator[Problem]:
    """The `dataclasses` backport shadows the standard library in Prefect's server, which then ends without a word."""
    for folder in sys.path:
        if (path := Path(folder) / "dataclasses.py").is_file() and "packages" in folder:
            mend = "pip uninstall dataclasses; img2dataset, which brings it, gets its own place by `pipeline setup`"
            yield Problem(what="the obsolete dataclasses backport is installed", where=str(path), mend=mend)


def img2dataset(preflight: Preflight) -> Iterator[Problem]:
    """A download needs img2dataset's own environment."""
    from llavaflow.stages._fetch import interpreter

    if preflight.of_type("Download"):
        try:
            interpreter()
        except InputError as error:
            yield Problem(what=str(error), where=sys.prefix, mend="pipeline setup")


def harness(preflight: Preflight) -> Iterator[Problem]:
    """An evaluation by lmms-eval needs that harness, unless it only takes in a finished run."""
    from llavaflow.stages._lmms_run import command

    if any(getattr(stage, "results", None) is None for _, stage in preflight.of_type("LmmsEval")):
        try:
            command()
        except InputError as error:
            yield Problem(what=str(error), where=sys.prefix, mend="pipeline setup --lmms-eval")


def store(preflight: Preflight) -> Iterator[Problem]:
    """The store can be written."""
    try:
        preflight.store.check_writable()
    except LlavaflowError as error:
        yield Problem(what=str(error), where=preflight.store.url, mend="choose another place with --store")


def files(preflight: Preflight) -> Iterator[Problem]:
    """Outside files that the recipe names exist, and those that only its user can name are named."""
    for name, stage in preflight.recipe.stages.items():
        for path, place in stage.outside().items():
            if not place.expanduser().exists():
                mend = f"--set {name}.{path}=PATH with a file or folder that exists"
                yield Problem(what=f"{place} does not exist", where=f"{name}.{path}", mend=mend)
        if isinstance(stage, OwnData) and stage.file is None:
            mend = f"--set {name}.file=FILE with LLaVA JSON, and --set {name}.images=FOLDER"
            yield Problem(what="no data is given", where=f"{name}.file", mend=mend)
        if isinstance(stage, Base) and (stage.checkpoint is None) == (stage.hub is None):
            mend = f"--set {name}.checkpoint=FOLDER or --set {name}.hub=NAME, one of them"
            yield Problem(what="no checkpoint to start from is given", where=name, mend=mend)


def refuse_unnamed(recipe: Recipe, store: ArtifactStore, machine: Machine, missing: Collection[str]) -> None:
    """Raise InputError when a stage that would be made waits for what only its user can name."""
    found = files(Preflight(recipe, store, machine))
    refuse(problem for problem in found if problem.where.partition(".")[0] in missing)


def refuse(problems: Iterable[Problem]) -> None:
    """Raise InputError with the first of these problems, if there is one: a run would end over it."""
    for problem in problems:
        raise InputError(f"nothing was started: {problem.where}: {problem.what}. Mend it with {problem.mend}.")


def disk(preflight: Preflight) -> Iterator[Problem]:
    """There is room for what the run writes; a warning where only the checkpoints of a training do not fit."""
    place = preflight.store.backend.scratch
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    mend = "free some space, or choose another place with --store"
    if free < FREE_GIB:
        what = f"{free:.1f} GiB are free, at least {FREE_GIB:.0f} are needed"
        yield Problem(what=what, where=str(place), mend=mend)
        return
    jobs = {name: read_job(stage) for name, stage in preflight.waiting() if isinstance(stage, Train)}
    needs = {name: _checkpoint_gib(job) for name, job in jobs.items() if job}
    if sum(needs.values()) > free:
        parts = ", ".join(f"{name} {need:.0f}" for name, need in needs.items())
        what = f"{free:.0f} GiB are free, checkpoints take about {sum(needs.values()):.0f} ({parts})"
        yield Problem(what=what, where=str(place), mend=mend, warning=True)


def _checkpoint_gib(job: TrainingJob) -> float:
    """The finished model in two bytes a weight, and one state to go on from with 14 for each that trains."""
    model = job.parameters if job.trains_language else job.projector_parameters
    return (2 * model + 14 * job.trainable) / GIB


def memory(preflight: Preflight) -> Iterator[Problem]:
    """This computer has the memory of a run on it."""
    if preflight.machine.gpus or preflight.machine.memory_gib >= MEMORY_GIB:
        return
    what = f"this computer has {preflight.machine.memory_gib:.1f} GiB of memory, runs want {MEMORY_GIB:.0f}"
    yield Problem(what=what, where="this computer", mend="close other programs, or add memory", warning=True)


def ports(_: Preflight) -> Iterator[Problem]:
    """Servers can listen on loopback; the usual ports of the pages are free."""
    for port in (0, *PAGES):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                mend = "nothing to do: `pipeline ui` takes a free one" if port else "allow servers on loopback"
                what = f"port {port or 'any'} cannot be had: {error.strerror}"
                yield Problem(what=what, where="127.0.0.1", mend=mend, warning=bool(port))


def credentials(preflight: Preflight) -> Iterator[Problem]:
    """Paid services, trackers and gated models have their keys in the environment."""
    if not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        for field, model, local in _paid(preflight):
            mend = f"set OPENAI_API_KEY, or OPENAI_BASE_URL for another service, or --set {field}={local}"
            yield Problem(what=f"no key to ask {model}", where="environment", mend=mend)
    if "wandb" in os.environ.get(TRACKERS, "") and not (os.environ.get("WANDB_API_KEY") or _home(".netrc").exists()):
        mend = "set WANDB_API_KEY, or WANDB_MODE=offline, or run `wandb login`"
        if os.environ.get("WANDB_MODE") not in ("offline", "disabled"):
            yield Problem(what=f"no key for Weights & Biases, which {TRACKERS} names", where="environment", mend=mend)
    if not _hub_token():
        for name, stage in preflight.waiting():
            for text in sorted({text for text in texts(stage) if text.lower().startswith(GATED) and not _held(text)}):
                mend = f"accept its licence at https://huggingface.co/{text} and set HF_TOKEN"
                yield Problem(what=f"{text} is gated and there is no token", where=name, mend=mend)


def _paid(preflight: Preflight) -> Iterator[tuple[str, str, str]]:
    """The field of every model that a waiting stage asks over the network, its name, and who answers without a key."""
    from llavaflow.stages._local_judge import NAME
    from llavaflow.stages._teacher import MODEL

    for name, stage in preflight.waiting():
        if isinstance(stage, Synthesize) and stage.model != MODEL:
            yield f"{name}.model", stage.model, MODEL
        elif isinstance(stage, (Evaluate, Judge)) and stage.review and stage.review.model != NAME:
            yield f"{name}.review.model", stage.review.model, NAME


def _hub_token() -> bool:
    """Whether the hub's client would find a token: where `hf auth login` leaves one, or in the environment."""
    place = os.environ.get("HF_TOKEN_PATH") or _hub_home() / "token"
    given = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    return bool(given) or Path(place).expanduser().is_file()


def _held(model: str) -> bool:
    """Whether the cache holds a model of the hub, which is then used without asking for it."""
    cache = Path(os.environ.get("HF_HUB_CACHE") or _hub_home() / "hub").expanduser()
    return any((cache / f"models--{model.replace('/', '--')}" / "snapshots").glob("*/config.json"))


def _hub_home() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or Path(caches) / "huggingface").expanduser()


def _home(path: str) -> Path:
    return Path("~", path).expanduser()


def environment(preflight: Preflight) -> Iterator[Problem]:
    """Kernels and trackers that the environment asks for are known and installed: a training would end over them."""
    from llavaflow.models import kernels
    from llavaflow.stages import _trackers

    if not preflight.of_type("Train"):
        return
    readers: tuple[tuple[str, Callable[[str], object]], ...] = (
        (kernels.SETTING, kernels.parse),
        (_trackers.SETTING, _trackers.parse),
    )
    for variable, parse in readers:
        try:
            parse(os.environ.get(variable, ""))
        except InputError as error:
            yield Problem(what=str(error), where=f"environment, {variable}", mend=f"unset {variable}, or mend it")


ENVIRONMENT: tuple[Gate, ...] = (
    packages, environment, backport, img2dataset, harness, store, files, disk, memory, ports, credentials,
)  # fmt: skip
