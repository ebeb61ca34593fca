"""Pretrained: where a stage gets a model from, a hub name or a folder of an earlier stage, through one field.

A full-size recipe names the hub; a recipe that makes its own models names the stage and the folder in its artifact.
Both end as the one string that `from_pretrained` takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llavaflow.infra.context import RunContext
from llavaflow.infra.errors import InputError
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model to start from: exactly one of a hub name (`hub`, at `revision`), a stage, or a local folder (`path`)."""

    hub: str | None = None
    revision: str | None = None
    stage: Stage | None = None
    folder: str = ""
    path: Path | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.hub, self.stage, self.path)) != 1:
            raise InputError("a pretrained model needs exactly one of `hub`, `stage` and `path`.")

    @property
    def name(self) -> str:
        """What a reader calls it."""
        if self.stage is not None:
            return f"{self.stage.type_name()}/{self.folder}"
        return self.hub or str(self.path)

    def resolve(self, ctx: RunContext) -> str:
        """The hub name or local path for `from_pretrained`. Raises InputError when the folder is not there."""
        if self.hub is not None:
            return self._from_hub(self.hub)
        root = self.path if self.path is not None else ctx.path(self.stage)
        folder = root / self.folder if self.folder else root
        if not (folder / "config.json").is_file():
            found = ", ".join(sorted(entry.name for entry in root.iterdir())) if root.is_dir() else ""
            raise InputError(f"no model at {folder}: it has no config.json. {root} holds: {found or 'nothing'}.")
        return str(folder)

    def _from_hub(self, hub: str) -> str:
        """The hub name itself; with a pinned revision, the local snapshot of it."""
        if self.revision is None:
            return hub
        from huggingface_hub import snapshot_download

        return str(snapshot_download(hub, revision=self.revision))
