"""What runs when: the times of the schedules, and the parts of the jobs that run other jobs.

Plain data and times; Dagster, whose import takes a second, is not needed to read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from types import MappingProxyType

#: The times of each schedule, as cron strings, in the settings' time zone.
CRONS: Mapping[str, str] = MappingProxyType(
    {
        "gradebook_sync": "30 0 * * *",
        "external_data": "0 */6 * * *",
        "forecasting": "0 1 * * *",
        "traditional_training": "0 2 * * *",
        "advanced_training": "0 3 * * *",
        "explanations": "0 4 * * *",
        "monitoring": "0 */2 * * *",
        "ab_tests": "0 */4 * * *",
        "comprehensive_maintenance": "0 5 * * 0",
        "data_cleanup": "0 6 * * *",
        "model_cleanup": "0 7 * * 0",
        "system_health": "15 * * * *",
    }
)

_WEEKDAYS = ("Sundays", "Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays")


@dataclass(frozen=True)
class Sequence:
    """A job whose steps run the jobs `parts`, in this order.

    `starts_over` is how often it starts again after an interruption, without the parts that are
    done. It collects external data of the current day; if it `looks_back`, of all days since the
    earliest section began, without those that were collected before.
    """

    name: str
    parts: tuple[str, ...]
    starts_over: int | None = None
    looks_back: bool = False

    def step(self, part: str) -> str:
        """Return the key of the step that runs `part`, with its number: the UI sorts by name.

        Dagster allows no step the name of a job.

        >>> FIRST_DAY.step("train_traditional_models")
        '02_train_traditional_models'
        """
        return f"{self.parts.index(part) + 1:02}_{part}"


def part_of(step: str) -> str:
    """Return the job that the step with this key runs.

    >>> part_of(FIRST_DAY.step("sync_gradebook"))
    'sync_gradebook'
    """
    return step.partition("_")[2]


WEEKLY = Sequence(
    "comprehensive_ml_maintenance",
    (
        "collect_external_data",
        "monitor_model_performance",
        "manage_ab_tests",
        "update_model_explanations",
        "generate_time_series_forecasts",
        "data_cleanup",
        "model_cleanup",
        "system_health",
    ),
)
#: Everything in the graph, predictions first: the baseline needs no external data, the ensemble
#: judges whether they help it. Records of a server come before everything made of records.
FIRST_DAY = Sequence(
    "first_day",
    (
        "sync_gradebook",
        "train_traditional_models",
        "collect_external_data",
        "train_advanced_ml_models",
        "generate_time_series_forecasts",
        "update_model_explanations",
        "monitor_model_performance",
        "manage_ab_tests",
        "data_cleanup",
        "model_cleanup",
        "system_health",
    ),
    # A user who tries it out stops it more often than the two times that Dagster restarts a run.
    starts_over=20,
    looks_back=True,
)


def in_words(cron: str) -> str:
    """Return when a schedule with this cron string runs.

    >>> in_words("30 0 * * *"), in_words("0 5 * * 0")
    ('daily at 00:30', 'Sundays at 05:00')
    >>> in_words("15 * * * *"), in_words("0 */6 * * *")
    ('every hour at minute 15', 'every 6 hours')
    """
    minute, hour, *_, weekday = cron.split()
    if hour.startswith("*/"):
        return f"every {hour.removeprefix('*/')} hours"
    if hour == "*":
        return f"every hour at minute {minute}"
    day = "daily" if weekday == "*" else _WEEKDAYS[int(weekday)]
    return f"{day} at {int(hour):02}:{int(minute):02}"


def next_tick(cron: str, after: datetime, zone: tzinfo) -> datetime:
    """Return the first time of the cron string, which is as in `CRONS`, after a moment; in UTC.

    >>> print(next_tick("0 5 * * 0", datetime(2026, 11, 30, tzinfo=UTC), UTC))
    2026-12-06 05:00:00+00:00
    """
    minute, hour, *_, weekday = cron.split()
    hours = range(0, 24, int(hour.removeprefix("*/"))) if "/" in hour else range(24)
    hours = hours if "*" in hour else range(int(hour), int(hour) + 1)
    first = after.astimezone(zone).date()
    # A week has every weekday; on one day of the year a time may be skipped.
    ticks = (
        datetime(day.year, day.month, day.day, at_hour, int(minute), tzinfo=zone).astimezone(UTC)
        for day in (first + timedelta(days=later) for later in range(9))
        if weekday in {"*", str(day.isoweekday() % 7)}
        for at_hour in hours
    )
    return next(tick for tick in ticks if tick > after)
