"""Failures that are nobody's bug but reach us as bare OSErrors get one message, wherever they are met."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from llavaflow.infra.errors import LlavaflowError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a full disk into a LlavaflowError; anything else that is unexpected keeps its traceback."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" at {error.filename}" if error.filename else ""
        raise LlavaflowError(
            f"the disk is full{where}. What was finished is kept; free some space and run the same command again."
        ) from error
