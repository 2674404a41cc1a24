"""The times of the schedules, computed without Dagster, are those at which Dagster starts them."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from grade_ml.orchestration.timetable import CRONS, next_tick


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Chicago"])
@pytest.mark.parametrize("name", CRONS)
def test_the_next_tick_is_that_of_dagster(name: str, zone: str):
    # On the second and third day the clocks of Chicago and Berlin are put forward, and back later.
    for moment in (
        datetime(2026, 11, 30, 21, 15, tzinfo=UTC),
        datetime(2026, 3, 8, 7, 30, tzinfo=UTC),
        datetime(2026, 3, 28, 23, 59, tzinfo=UTC),
        datetime(2026, 10, 31, 5, 0, tzinfo=UTC),
    ):
        ticks = schedule_execution_time_iterator(moment.timestamp() + 1, CRONS[name], zone)
        assert next_tick(CRONS[name], moment, ZoneInfo(zone)) == next(iter(ticks)), moment
