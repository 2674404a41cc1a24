"""What several commands take: days and identifiers as options, and the clock of the command."""

from __future__ import annotations

from datetime import date
from typing import Any

import click

from grade_ml.core.clock import Clock
from grade_ml.core.dates import parse_date


class _Day(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            return parse_date(value)
        except ValueError as error:
            self.fail(f"{value}: {error}.", param, ctx)


class _Identifier(click.ParamType):  # type: ignore[type-arg]
    """A text that the gradebook can hold; in an argument of other bytes Python has surrogates."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            shown = value.encode(errors="backslashreplace").decode()
            self.fail(f"{shown} is not UTF-8, so nothing has it as its id.", param, ctx)
        return str(value)


#: Gives a command its one clock: that of `obj`, where a caller has another, else the machine's.
pass_clock = click.make_pass_decorator(Clock, ensure=True)

DAY = _Day()
IDENTIFIER = _Identifier()
