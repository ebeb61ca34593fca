"""Install img2dataset in an environment of its own, beside this one; a second run only checks.

img2dataset brings the obsolete `dataclasses` backport, which breaks Prefect's server, and holds back webdataset and
pandas. So it gets `<sys.prefix>/img2dataset` with every version pinned, and the download stage calls its Python.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from importlib.resources import files
from pathlib import Path

import click

from llavaflow.infra.errors import LlavaflowError
from llavaflow.pipelines._cli._options import emit, json_option

STAMP = ".installed"


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Create what the pipeline needs beside its own Python packages: the environment of img2dataset."""
    home = Path(sys.prefix) / "img2dataset"
    requirements = files("llavaflow.infra").joinpath("img2dataset_requirements.txt").read_bytes()
    fresh = install(home, requirements)
    state = "installed" if fresh else "found"
    emit(
        {"img2dataset": {"path": str(home), "state": state}},
        as_json,
        lambda out: out.print(f"img2dataset: {home} {state}"),
    )


def install(home: Path, requirements: bytes) -> bool:
    """Make the environment unless it is there with exactly these requirements; whether it was made."""
    digest = hashlib.sha256(requirements).hexdigest()
    stamp = home / STAMP
    if stamp.exists() and stamp.read_text() == digest:
        return False
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True, symlinks=True)
    wanted = home / "requirements.txt"
    wanted.write_bytes(requirements)
    pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run([*pip, "--requirement", str(wanted)], stdout=sys.stderr)
    if result.returncode != 0:
        raise LlavaflowError(f"pip could not fill {home} (its messages are above). Run `pipeline setup` again.")
    stamp.write_text(digest)
    return True
