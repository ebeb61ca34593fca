"""Install what is kept apart, each in an environment of its own beside this one; a second run only checks.

img2dataset brings the obsolete `dataclasses` backport, which breaks Prefect's server, and holds back webdataset and
pandas. So it gets `<sys.prefix>/img2dataset` with every version pinned, and the download stage calls its Python.
lmms-eval, the second engine of evaluation, is asked for by a flag: it brings another torch and a hundred packages.
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
# packages that bring other ones by platform (torch its CUDA libraries), which no list of pins can hold
WITH_DEPENDENCIES = ("torch",)


@click.command()
@click.option("--lmms-eval", "lmms_eval", is_flag=True, help="Also lmms-eval, for `evaluate-lmms-eval` (2.5 GB).")
@json_option
def command(lmms_eval: bool, as_json: bool) -> None:
    """Create what the pipeline needs beside its own Python packages: the environment of img2dataset."""
    found = {}
    for name in ("img2dataset", *(("lmms-eval",) if lmms_eval else ())):
        home = Path(sys.prefix) / name
        requirements = files("llavaflow.infra").joinpath(f"{name.replace('-', '_')}_requirements.txt").read_bytes()
        found[name] = {"path": str(home), "state": "installed" if install(home, requirements) else "found"}
    told = "\n".join(f"{name}: {at['path']} {at['state']}" for name, at in found.items())
    emit(found, as_json, lambda out: out.print(told))


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
    first = [line for line in requirements.decode().splitlines() if line.partition("==")[0] in WITH_DEPENDENCIES]
    for words in ([*first, "--constraint", str(wanted)] if first else [], ["--no-deps", "--requirement", str(wanted)]):
        pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if words and subprocess.run([*pip, *words], stdout=sys.stderr).returncode != 0:
            raise LlavaflowError(f"pip could not fill {home} (its messages are above). Run `pipeline setup` again.")
    stamp.write_text(digest)
    return True
