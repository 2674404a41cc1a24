"""Parameters that commands share: types for days, identifiers and numbers, clock and settings."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import click

from grade_ml.core.clock import Clock
from grade_ml.core.dates import parse_date
from grade_ml.core.settings import Settings


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
    """A text that the gradebook can hold; Python turns other bytes of arguments into surrogates."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            shown = value.encode(errors="backslashreplace").decode()
            self.fail(f"{shown} is not UTF-8, so it is not an id of anything.", param, ctx)
        return str(value)


class Number(click.FloatRange):
    """A number between two bounds, which NaN and infinity would pass unseen."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number, or refuse the value."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


#: Gives a command its only clock: that of `obj` if the caller set one, else the machine's.
pass_clock = click.make_pass_decorator(Clock, ensure=True)


def settings_at(clock: Clock) -> Settings:
    """Read the settings of the environment, and refuse a GRADE_ML_AS_OF in the future."""
    settings = Settings.from_environment()
    settings.date_at(clock.now())
    return settings


DAY = _Day()
IDENTIFIER = _Identifier()
