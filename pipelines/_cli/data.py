"""Read official raw data, check a training file before GPU time, look at its records."""

from __future__ import annotations

import click

from llavaflow.pipelines._cli._data_check import check
from llavaflow.pipelines._cli._data_read import read
from llavaflow.pipelines._cli._data_show import show


@click.group()
def command() -> None:
    """Training data: `read` it from official raw files, `check` it, `show` it as the model will see it."""


command.add_command(read)
command.add_command(check)
command.add_command(show)
