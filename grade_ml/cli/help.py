"""Formats text for terminals: `--help` with whole summaries and examples, and paragraphs."""

from __future__ import annotations

import shutil
from difflib import get_close_matches

import click

from grade_ml.core.texts import readable, wrapped

#: Columns; longer lines are hard to read.
WIDEST = 100


class Group(click.Group):
    """A group whose help shows each summary in full; click would cut it to one line."""

    def summaries(self, ctx: click.Context) -> dict[str, str]:
        """Return what each subcommand does, in one sentence, in the order of the help."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        return {name: summary(command) for name, command in commands.items() if command}

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand that the arguments name, or guess which subcommand was meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            raise click.UsageError(
                f"{error.message} Did you mean {near[0]!r}?", error.ctx
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names of the subcommands and their summaries."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries(ctx).items()))


def summary(command: click.Command) -> str:
    """Return the first paragraph of a command's help, as one line."""
    return " ".join((command.help or "").partition("\n\n")[0].split())


def example(*calls: str) -> str:
    """Return the end of a command's help: calls that can be copied; click does not wrap them.

    >>> example("grade-ml status").splitlines()[1:]
    ['Example:', '  grade-ml status']
    """
    title = "Example:" if len(calls) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {call}" for call in calls)])


def width() -> int:
    """Return the width of printed text: that of the terminal, or 80; at most `WIDEST`."""
    return min(shutil.get_terminal_size().columns, WIDEST)


def prose(text: object) -> str:
    """Return the text for a terminal: paragraphs broken into lines, tables as they are."""
    return wrapped(readable(text), width())
