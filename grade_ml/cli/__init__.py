"""The `grade-ml` command: one module per subcommand, each imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

import click

from grade_ml.cli.help import WIDEST, Group, example, prose
from grade_ml.core.errors import GradeMLError
from grade_ml.core.failures import foreseen
from grade_ml.core.masking import masked
from grade_ml.core.process import keep_apart

#: Each subcommand with the first sentence of its help, so that `grade-ml --help` imports none.
COMMANDS = {
    "up": "Start everything on this machine and keep it running until Ctrl-C.",
    "load": "Load records into the gradebook.",
    "run": "Run JOB now, in this process, and wait for it.",
    "predict": "Predict a student's final grade in a course, and the risk of failing or "
    "withdrawing.",
    "backtest": "Measure how well models predict terms that they have not seen.",
    "status": "Say how the installation is: services, records, schedules, runs, models, alerts, "
    "gaps.",
    "experiment": "Compare models or actions: plan an experiment, see its state, decide it by "
    "hand.",
    "alert": "Test the channels by which alerts are sent (GRADE_ML_ALERT_…).",
    "providers": "Serve made-up weather, economy, calendars, posts, jobs, events and page views "
    "until Ctrl-C.",
    "cleanup": "Remove what is outdated: data (rows, files, runs), models, or both by default.",
}


class _LazyGroup(Group):
    """Imports `grade_ml.cli.<name>` when the command is called; `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def summaries(self, ctx: click.Context) -> dict[str, str]:
        return COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"grade_ml.cli.{cmd_name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST},
    epilog=example("grade-ml up --demo", "grade-ml status", "grade-ml run --help"),
)
@click.version_option(package_name="grade-ml")
def group() -> None:
    """Grades in, trustworthy predictions out."""


def main() -> None:
    """Run the command; an expected error is printed with its remedy and exits with status 1.

    Errors of the machine, such as a full disk, are expected, too. For an unexpected error the
    traceback is printed, without the secrets in it.
    """
    keep_apart()
    try:
        group(prog_name="grade-ml")
    except Exception as error:
        expected = foreseen(error, _places())
        if expected is None:
            click.echo(masked(traceback.format_exc()), err=True)
        else:
            _say(f"Error: {expected.message}")
            if expected.remedy:
                _say(f"What to do: {expected.remedy}")
        sys.exit(1)


def _say(text: str) -> None:
    """Print to stderr, in lines that fit a terminal; what is searched later, a log, keeps whole."""
    click.echo(prose(text) if sys.stderr.isatty() else text, err=True)


def _places() -> list[Path]:
    """Return the folders into which commands write."""
    temporary = Path(os.environ.get("TMPDIR", "/tmp"))
    try:
        from grade_ml.core.settings import Settings

        paths = Settings.from_environment().places
    except (GradeMLError, ImportError):  # the settings, or the code that reads them, are wrong
        return [temporary]
    written = ("GRADE_ML_HOME", "GRADE_ML_STORAGE", "DAGSTER_HOME")
    return [*(Path(paths[name]) for name in written if name in paths), temporary]
