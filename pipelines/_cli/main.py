"""The `pipeline` command: its subcommands are the files of this folder, and only the one that is called is imported.

    data.py           ->  pipeline data            (each file defines `command: click.Command`)
    _options.py       ->  not a command

The one-line help of a command is the first line of its file's docstring, read without importing the file, so that
`pipeline --help` costs nothing. Errors become one message and an exit code here and nowhere else.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from llavaflow.infra.errors import LlavaflowError, unknown
from llavaflow.pipelines._catalogue import cli_name, file_name, summary
from llavaflow.pipelines._errors import one_line_errors

FOLDER = Path(__file__).parent
INTERRUPTED = 130


class Commands(click.Group):
    """A group that finds its commands by file name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        files = sorted(path.stem for path in FOLDER.glob("*.py") if not path.name.startswith("_"))
        return [cli_name(name) for name in files if name != "main"]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        found = importlib.import_module(f"llavaflow.pipelines._cli.{file_name(name)}").command
        assert isinstance(found, click.Command), f"{name}.py must define `command`"
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            raise unknown("command", args[0], self.list_commands(ctx), "pipeline --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(FOLDER / f"{file_name(name)}.py")) for name in self.list_commands(ctx)])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="llavaflow", message="%(version)s")
def cli() -> None:
    """From a list of URLs to a scored LLaVA checkpoint: every step recorded, nothing done twice."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 bad usage or input, 130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with one_line_errors():
            result = cli.main(args, prog_name="pipeline", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (LlavaflowError, click.ClickException) as error:
        return _report(error, as_json="--json" in args)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; what was finished is kept, the same command goes on from there", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader (head, less) went away: nothing more to say to it, not even at interpreter exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _report(error: LlavaflowError | click.ClickException, *, as_json: bool) -> int:
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    click.echo(f"error: {message}", err=True)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(f"usage: {error.ctx.command_path} --help", err=True)
    if as_json:
        body = {"type": type(error).__name__, "message": message, "exit_code": error.exit_code}
        click.echo(json.dumps({"error": body}))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
