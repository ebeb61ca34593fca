"""Every failure a user can meet, as one tree.

    LlavaflowError            exit 1: the run failed, the message says why and what to do
    |- InputError             exit 2: bad usage or bad input, nothing was started
    |- StageFailed            exit 1: a stage gave up (gate not met, too many failures)
    |- StoreError             exit 1: the artifact store cannot be read or written
    |  '- StoreBusy           exit 1: another live run holds the lease of this stage
    '- BudgetExceeded         exit 1: stopped cleanly before spending past the limit

A message answers four questions, in this order: what is wrong, where we looked, what exists, what to do.
Anything that is not a LlavaflowError is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LlavaflowError(Exception):
    """A failure with a message written for the user; `exit_code` is what the command returns."""

    exit_code = 1


class InputError(LlavaflowError):
    """Bad usage or bad input: refused before any work was done."""

    exit_code = 2


class StageFailed(LlavaflowError):
    """A stage ran and cannot deliver what its recipe asks for."""


class StoreError(LlavaflowError):
    """The artifact store cannot be reached, read or written."""


class StoreBusy(StoreError):
    """Another live run is making the same artifact."""


class BudgetExceeded(LlavaflowError):
    """The next step would spend past the limit of tokens or money; what was paid for is kept."""


def unknown(what: str, name: str, known: Iterable[str], where: str) -> InputError:
    """The error for a name that does not exist: where we looked, the nearest names, and all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return InputError(f"unknown {what} '{name}' (looked in {where}).{hint} Known: {', '.join(names) or 'none'}.")
