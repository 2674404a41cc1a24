"""What is worth an alert, from facts that are made up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.alerts.decisions import (
    EndedRun,
    ScheduleRecord,
    Ticker,
    failing,
    missed,
    silent,
    stale,
    unrepaired,
)

NOW = datetime(2026, 11, 29, 12, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
LONG_AGO = NOW - timedelta(days=90)


def every(hours: int, back: int) -> list[datetime]:
    """Return the last due times of a schedule of every so many hours on the hour."""
    newest = NOW.replace(hour=NOW.hour - NOW.hour % hours, minute=0)
    return [newest - number * hours * HOUR for number in range(back)][::-1]


def schedule(due, ticked=None, since=LONG_AGO, skipped_at=None, made_at=()) -> ScheduleRecord:
    return ScheduleRecord(
        "nightly", since, due, due if ticked is None else ticked, skipped_at, dict(made_at)
    )


def test_what_ticked_is_not_missed_and_what_is_due_just_now_is_not_yet():
    due = every(2, 15)
    assert due[-1] == NOW - timedelta(minutes=10)
    assert missed([schedule(due, due[:-1])], NOW) == {}
    assert "at 2026-11-29 12:00" in str(missed([schedule(due, due[:-1])], NOW + HOUR))


def test_ticks_before_it_was_switched_on_are_not_missed():
    due = every(2, 15)
    assert missed([schedule(due, [], since=NOW - 3 * HOUR)], NOW) == {
        "schedule nightly": "It should have ticked at 2026-11-29 10:00 UTC and did not. While "
        "`grade-ml up` is down nothing ticks; otherwise its daemon.log gives the reason."
    }
    assert missed([schedule(due, [], since=NOW)], NOW) == {}


def test_missed_ticks_are_reported_for_a_day_though_the_last_was_made_up_for():
    """Dagster makes up for the last tick only."""
    due = every(2, 15)
    slept = [at for at in due if not (due[4] <= at < due[-2])]
    message = missed([schedule(due, slept)], NOW)["schedule nightly"]
    assert "9 times from 2026-11-28 16:00 UTC to 2026-11-29 08:00 UTC" in message
    later = [*due, *(due[-1] + 2 * number * HOUR for number in range(1, 12))]
    ticked = [*slept, *later[-11:]]
    assert missed([schedule(later, ticked)], NOW + 22 * HOUR) == {}


@pytest.mark.parametrize("interval", [2, 24])
def test_an_asset_is_stale_after_two_intervals_unless_there_was_nothing_to_do(interval):
    due = every(interval, 4)
    kept, late = NOW - 2 * interval * HOUR + HOUR, NOW - 2 * interval * HOUR - HOUR
    assert stale([schedule(due, made_at={"a": kept})], NOW) == {}
    messages = stale([schedule(due, made_at={"a": kept, "b": late})], NOW)
    assert (
        "b (" in messages["freshness of nightly"] and "a (" not in messages["freshness of nightly"]
    )
    assert stale([schedule(due, made_at={"b": late}, skipped_at=kept)], NOW) == {}
    assert stale([schedule(due, made_at={"b": late}, since=kept)], NOW) == {}
    # What was never made is no news: it comes with the first training.
    assert stale([schedule(due)], NOW) == {}


def test_a_sensor_may_fail_twice_a_schedule_never():
    tickers = [
        Ticker("a", False, 2, "OperationalError"),
        Ticker("b", False, 3, "OperationalError"),
        Ticker("c", True, 1, "KeyError"),
        Ticker("d", True, 0, ""),
    ]
    assert failing(tickers).keys() == {"ticks of b", "ticks of c"}


def test_a_daemon_is_silent_after_some_minutes():
    assert silent(NOW - timedelta(minutes=4), NOW) == {}
    assert "since 2026-11-29 12:04 UTC" in silent(NOW - timedelta(minutes=6), NOW)["daemon"]
    assert silent(None, NOW).keys() == {"daemon"}


RUNS = st.lists(
    st.builds(
        EndedRun,
        st.uuids().map(str),
        st.just("job x"),
        st.frozensets(st.sampled_from("ABC"), min_size=1),
        st.booleans(),
    )
)


@given(RUNS)
def test_a_failure_is_repaired_by_later_successes_over_all_that_it_worked_on(runs):
    """`runs` from the newest to the oldest; compared with the definition, target by target."""
    broken = [
        run
        for place, run in enumerate(runs)
        if not run.succeeded
        and not all(
            any(later.succeeded and target in later.targets for later in runs[:place])
            for target in run.targets
        )
    ]
    assert unrepaired(runs) == ({"job x": broken[0]} if broken else {})
