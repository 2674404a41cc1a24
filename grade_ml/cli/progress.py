"""Shows a command's steps on standard error, with their rows and seconds."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID


@dataclass
class _Step:
    rows: int = 0
    seconds: float = 0.0
    since: float | None = None

    def begin(self) -> None:
        self.since = time.monotonic()

    def end(self) -> None:
        self.seconds, self.since = self.total(), None

    def total(self) -> float:
        return self.seconds + (0.0 if self.since is None else time.monotonic() - self.since)

    def __str__(self) -> str:
        rows = f"{self.rows:,} row{'s' * (self.rows != 1)}, " if self.rows else ""
        return f"{rows}{self.total():.1f} s"


class Steps:
    """Prints each step when it first begins, and at the end its rows and seconds.

    A step may continue after others, for a source arrives in parts. A terminal shows a spinner and
    a clock. Elsewhere each step is a line of text when it begins, so that a log always shows the
    present step, and another line when the command ends.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._steps: dict[str, _Step] = {}
        self._current = ""

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = self._stack.enter_context(_bar())
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._end()
            for name, step in () if self._bar else self._steps.items():
                click.echo(f"{name}: {step}", err=True)
        self._stack.close()

    def __call__(self, name: str, rows: int = 0) -> None:
        """Begin a step, continue it, or add rows to its count."""
        if name != self._current:
            self._end()
            self._begin(name)
        self._steps[name].rows += rows

    def _begin(self, name: str) -> None:
        is_new = name not in self._steps
        step = self._steps.setdefault(name, _Step())
        self._current = name
        step.begin()
        if is_new and self._bar:
            self._tasks[name] = self._bar.add_task(name, total=None, step=step)
        elif is_new:
            click.echo(f"{name} …", err=True)
        elif self._bar:
            self._bar.update(self._tasks[name], total=None, completed=0)

    def _end(self) -> None:
        if not self._current:
            return
        self._steps[self._current].end()
        if self._bar:
            self._bar.update(self._tasks[self._current], total=1, completed=1)


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.text import Text

    class Figures(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(str(task.fields["step"]))

    return Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        Figures(),
        console=Console(stderr=True),
    )
