"""Runs img2dataset on one job file. Executed by the Python of its own environment, never imported by ours.

img2dataset brings packages that break the rest of the pipeline (design.md, section 4), so it lives in an environment
made by `pipeline setup`, and this file is the only thing that runs there: it knows img2dataset and the standard
library, nothing of llavaflow.

    python _img2dataset.py job.json      job.json = the keyword arguments of img2dataset.download

The process and its workers die with the process that started them: a download without its proxy and its ledger would
only write wrong results.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends; elsewhere the closed proxy ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# at import, because the spawned workers of img2dataset import this file too
die_with_parent()

if __name__ == "__main__":
    from img2dataset import download

    with open(sys.argv[1]) as stream:
        download(**json.load(stream))
