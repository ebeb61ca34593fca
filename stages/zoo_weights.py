"""Zoo weights: a published model or projector, from the hub or from a copy of it, as a training stage would leave it.

    model/            the whole model in Hugging Face format; adapters are merged into their language model
    mm_projector.bin  the projector alone

A recipe gets this stage in place of a training by `pipeline run RECIPE --from-zoo NAME`. Without a hub, the files can
be fetched elsewhere and given with `--set STAGE.folder=FOLDER`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError, StageFailed, unknown
from llavaflow.models.zoo import ZOO, ZooRow
from llavaflow.stages._stage import Stage

PROJECTOR_FILE = "mm_projector.bin"


@dataclass(frozen=True, kw_only=True)
class ZooWeights(Stage):
    """The weights of one row of the model zoo.

    folder    a copy of what the hub holds under the row's name, or the file of a projector
    language  for adapters: a copy of the language model that they are merged into
    """

    kind: ClassVar[Kind] = "checkpoint"
    folders_by_content: ClassVar[bool] = True

    name: str
    folder: Path | None = None
    language: Path | None = None

    def run(self, ctx: RunContext) -> Artifact:
        """Fetch, turn into our form. Raises StageFailed when the hub cannot be had."""
        row = self.row()
        source = self.folder or from_hub(row.weights, f"{ctx.stage}.folder")
        shutil.rmtree(ctx.out, ignore_errors=True)
        ctx.out.mkdir(parents=True)
        if row.form == "projector":
            self._projector(row, source, ctx.out)
        else:
            self._model(row, source, ctx)
        return ctx.finish({"zoo": self.name, "weights": row.weights, "form": row.form})

    def row(self) -> ZooRow:
        """The row of the zoo. Raises InputError when there is none of this name, or it is a difference to LLaMA."""
        if self.name not in ZOO:
            raise unknown("row of the model zoo", self.name, ZOO, "models/zoo.py")
        row = ZOO[self.name]
        if row.form == "delta":
            raise InputError(
                f"{self.name} is a difference to LLaMA, which is on no hub that we may use. Put LLaMA's weights on "
                f"disk, add the two with `pipeline checkpoint apply-delta LLAMA DELTA OUT`, and start finetune-task "
                f"with --set base.checkpoint=OUT."
            )
        return row

    def _projector(self, row: ZooRow, source: Path, out: Path) -> None:
        from llavaflow.models import projector

        file = source / PROJECTOR_FILE if source.is_dir() else source
        if not file.is_file():
            raise InputError(f"no {PROJECTOR_FILE} at {source}: give the folder or the file of {row.weights}.")
        projector.read(file)
        shutil.copyfile(file, out / PROJECTOR_FILE)

    def _model(self, row: ZooRow, source: Path, ctx: RunContext) -> None:
        from llavaflow.models.checkpoint import convert, format_of, merge_lora

        model, form = ctx.out / "model", format_of(source)
        try:
            if row.form == "lora":
                base = self.language or from_hub(row.language, f"{ctx.stage}.language")
                merge_lora(source, base, model, row.tower)
            elif form == "hf":
                shutil.copytree(source, model)
            else:
                convert(source, model, "hf", row.tower)
        except OSError as error:
            # transformers asks the hub for a tower that the checkpoint only names
            raise StageFailed(
                f"{self.name} names its tower {row.tower}, which could not be had: {str(error).splitlines()[0]}. "
                f"{_elsewhere(row.tower)}"
            ) from error
        convert(model, ctx.out, "projector", None)


def from_hub(name: str, field: str) -> Path:
    """The local snapshot of a hub name, or the file of a name that ends in one. Raises StageFailed without a hub.

    field: the setting that takes a copy instead.
    """
    from huggingface_hub import constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, file = name.partition("/")[2].partition("/")
    repository = f"{name.partition('/')[0]}/{repository}"
    try:
        return Path(hf_hub_download(repository, file) if file else snapshot_download(repository))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise StageFailed(
            f"cannot get {name} from {constants.ENDPOINT}: {type(error).__name__}, and {constants.HF_HUB_CACHE} holds "
            f"no copy. {_elsewhere(name)} Or give a copy with --set {field}=FOLDER."
        ) from error


def _elsewhere(name: str) -> str:
    return (
        f"Check the network (HF_ENDPOINT names another hub, HF_TOKEN opens gated models), or fetch {name} elsewhere "
        "into a folder that HF_HOME names."
    )
