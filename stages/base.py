"""Base: a checkpoint that somebody else made, brought into the store so that what follows can name it.

It takes a folder (`--set base.checkpoint=PATH`: a LLaVA checkpoint in Hugging Face or in the original format, or an
artifact folder that holds one in `model/`) or a hub name (`--set base.hub=llava-hf/llava-1.5-7b-hf`,
`--set base.hub=liuhaotian/llava-v1.5-7b`). The files are copied, not linked: a training script that later writes over
the user's folder must not change what the store has recorded. The original format is converted on the way.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Base(Stage):
    """A LLaVA checkpoint from outside: a local folder or a hub name, exactly one of them."""

    kind: ClassVar[Kind] = "checkpoint"
    folders_by_content: ClassVar[bool] = True

    checkpoint: Path | None = None
    hub: str | None = None

    def run(self, ctx: RunContext) -> Artifact:
        folder = self._folder(ctx)
        shutil.rmtree(ctx.out, ignore_errors=True)
        _bring(folder, ctx.out / "model")
        config = json.loads((ctx.out / "model" / "config.json").read_text(encoding="utf-8"))
        return ctx.finish({"model_type": config.get("model_type"), "architectures": config.get("architectures", [])})

    def _folder(self, ctx: RunContext) -> Path:
        if (self.checkpoint is None) == (self.hub is None):
            raise InputError(
                f"{ctx.recipe} needs one checkpoint to start from. "
                "Give --set base.checkpoint=FOLDER or --set base.hub=NAME, not both."
            )
        if self.hub is not None:
            return _from_hub(self.hub)
        return find_checkpoint(self.checkpoint) if self.checkpoint else Path()


def _bring(folder: Path, out: Path) -> None:
    """Copy a checkpoint, or convert it. Raises InputError for what no training can go on from."""
    from llavaflow.models import checkpoint, forms

    found = checkpoint.format_of(folder)
    if found == "lora":
        raise InputError(
            f"{folder} is an adapter. Merge it into the model that it was trained on first: "
            f"pipeline checkpoint merge-lora {folder} OUT --base MODEL"
        )
    if found == "original":
        checkpoint.convert(folder, out, "hf", None)
        return
    forms.classes(forms.form_of(str(folder)))
    for source in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = out / source.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def find_checkpoint(folder: Path) -> Path:
    """The folder with `config.json`: the given one, or the `model` folder inside an artifact.

    Raises InputError when neither holds a checkpoint.
    """
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file():
            return candidate
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    raise InputError(
        f"no checkpoint at {folder}: neither config.json nor model/config.json is there (found: {there}). "
        "Give a folder that transformers' from_pretrained would take."
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"cannot get {name} from the hub: {type(error).__name__}. Check the name, the network and, for a gated "
            "model, HF_TOKEN; or download it elsewhere and give --set base.checkpoint=FOLDER."
        ) from error
