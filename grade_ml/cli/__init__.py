"""The `grade-ml` command: one module per subcommand, each imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

import click

from grade_ml.core.errors import GradeMLError
from grade_ml.core.failures import foreseen
from grade_ml.core.masking import masked
from grade_ml.core.process import keep_apart

COMMANDS = ("up", "load", "run", "predict", "backtest", "status", "experiment", "providers")


class _LazyGroup(click.Group):
    """Imports `grade_ml.cli.<name>` when the command is asked for, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"grade_ml.cli.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="grade-ml")
def group() -> None:
    """Grades in, trustworthy predictions out."""


def main() -> None:
    """Run the command; an expected error is printed with its remedy and exits with status 1.

    Expected is also what the machine refuses, such as writing to a full disk. Of an error that
    nobody expected, the traceback is printed, without the secrets in it.
    """
    keep_apart()
    try:
        group(prog_name="grade-ml")
    except Exception as error:
        expected = foreseen(error, _places())
        if expected is None:
            click.echo(masked(traceback.format_exc()), err=True)
        else:
            click.echo(f"Error: {expected.message}", err=True)
            if expected.remedy:
                click.echo(f"What to do: {expected.remedy}", err=True)
        sys.exit(1)


def _places() -> list[Path]:
    """Return the folders into which commands write."""
    from grade_ml.core.settings import Settings

    temporary = Path(os.environ.get("TMPDIR", "/tmp"))
    try:
        paths = Settings.from_environment().places
    except GradeMLError:  # the settings are what is wrong
        return [temporary]
    written = ("GRADE_ML_HOME", "GRADE_ML_STORAGE", "DAGSTER_HOME")
    return [*(Path(paths[name]) for name in written if name in paths), temporary]
