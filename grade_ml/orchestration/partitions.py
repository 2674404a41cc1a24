"""The partition sets of courses and of days, the keys of one run, and their limits."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import date

from dagster import (
    AssetExecutionContext,
    BackfillPolicy,
    BetaWarning,
    DailyPartitionsDefinition,
    DynamicPartitionsDefinition,
)

from grade_ml.core.dates import parse_date
from grade_ml.core.errors import NotFoundError
from grade_ml.orchestration.ranges import IN_ONE_RUN, PARTITION, RANGE_END, RANGE_START

# Known and accepted; every process that loads the definitions would print it.
warnings.filterwarnings("ignore", "Parameter `backfill_policy`", BetaWarning)

#: Kept equal to the gradebook's courses by the sensor `course_catalog`.
course = DynamicPartitionsDefinition(name="course")

many_courses = BackfillPolicy.multi_run(max_partitions_per_run=IN_ONE_RUN)

#: The earliest day for which external data can be collected.
FIRST_DAY = "2010-01-01"

#: One request often returns a year.
all_days = BackfillPolicy.single_run()


def days(timezone: str) -> DailyPartitionsDefinition:
    """Return the days up to today, on the calendar of `timezone`."""
    return DailyPartitionsDefinition(start_date=FIRST_DAY, timezone=timezone, end_offset=1)


def keys_of(
    context: AssetExecutionContext, require: Callable[[Sequence[str]], None]
) -> Sequence[str]:
    """Return the partitions that a run is for.

    By GraphQL, Dagster starts a run for any text: a run for a future day succeeded.

    Parameters
    ----------
    require
        Raises an error if a partition that the run names does not exist.

    Raises
    ------
    NotFoundError
        The run names no partition, or a range that ends before it begins.
    """
    tags = context.run.tags
    named = [tags[name] for name in (PARTITION, RANGE_START, RANGE_END) if name in tags]
    if not named:
        raise NotFoundError(
            "The run names no partition.",
            "Choose partitions in the launch dialog, or start it by `grade-ml run`.",
        )
    require(named)
    keys: Sequence[str] = context.partition_keys
    if not keys:
        raise NotFoundError(
            f"The range from {named[0]} to {named[-1]} ends before it begins.",
            "Exchange its ends.",
        )
    return keys


def require_days(named: Iterable[str], last: date) -> None:
    """Raise `NotFoundError` for a text that is not a day from FIRST_DAY to `last`.

    >>> require_days(["2010-01-01", "2026-11-30"], date(2026, 11, 30))
    """
    for text in named:
        try:
            day = parse_date(text)
        except ValueError as error:
            raise NotFoundError(
                f"There is no day {text!r}.", "Write days as YYYY-MM-DD."
            ) from error
        if not FIRST_DAY <= day.isoformat() <= last.isoformat():
            raise NotFoundError(
                f"The day {day} has no partition.",
                f"Choose days from {FIRST_DAY} to {last}, the current one.",
            )
