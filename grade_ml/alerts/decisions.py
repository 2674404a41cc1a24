"""Decides from plain facts which runs, schedules and sensors deserve an alert.

Each function returns a message by subject, as `conditions.record` takes it. The caller provides the
facts; that something is over follows from the absence of its subject.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class AlertRules:
    """The thresholds from which an alert is sent, each with its reason."""

    #: The daemon evaluates a due schedule within a minute; a restart after an upgrade takes a few
    #: minutes, and the daemon then makes up for the last tick that it missed.
    late_after: timedelta = timedelta(minutes=15)
    #: Ticks that are examined: a day without a daemon is reported as a whole, then it is history.
    lookback: timedelta = timedelta(days=1)
    #: One tick in this interval may be slow or fail, and has its own alert; two make a stale asset.
    intervals: int = 2
    #: A sensor ticks every minute or so; one failure is a database that was restarted.
    failures_in_a_row: int = 3
    #: The daemon reports every 30 seconds; on a machine that is busy with a training, late.
    silent_after: timedelta = timedelta(minutes=5)


RULES = AlertRules()


@dataclass(frozen=True)
class EndedRun:
    """A run that succeeded or failed, and what it worked on.

    Parameters
    ----------
    subject
        The subject of an alert about its failure.
    targets
        What it worked on, as any texts that are equal for equal work.
    """

    run_id: str
    subject: str
    targets: frozenset[str]
    succeeded: bool


def unrepaired(runs: Iterable[EndedRun]) -> dict[str, EndedRun]:
    """Return by subject the newest failed run some of whose targets had no success afterwards.

    Parameters
    ----------
    runs
        The newest first.

    Examples
    --------
    >>> both, one = frozenset({"A", "B"}), frozenset({"B"})
    >>> history = [EndedRun("2", "job x", one, True), EndedRun("1", "job x", both, False)]
    >>> unrepaired(history)["job x"].run_id
    '1'
    >>> unrepaired([EndedRun("3", "job y", both, True), *history])
    {}
    """
    repaired: set[str] = set()
    failures: dict[str, EndedRun] = {}
    for run in runs:
        if run.succeeded:
            repaired |= run.targets
        elif run.targets - repaired:
            failures.setdefault(run.subject, run)
    return failures


@dataclass(frozen=True)
class ScheduleRecord:
    """The ticks of a schedule, and the assets that it keeps fresh.

    Parameters
    ----------
    since
        When it was switched on.
    due
        When it should have ticked lately, in order, at least the last two times.
    ticked
        The due times that have a tick, whether it ran, skipped or failed.
    skipped_at
        Its newest tick that had nothing to do: until then its assets were as new as their input.
    made_at
        When each of its assets was made last; an asset that was never made is left out.
    """

    name: str
    since: datetime
    due: Sequence[datetime]
    ticked: Collection[datetime]
    skipped_at: datetime | None
    made_at: Mapping[str, datetime]


def missed(
    schedules: Iterable[ScheduleRecord], now: datetime, rules: AlertRules = RULES
) -> dict[str, str]:
    """Return the schedules that missed a tick: the last tick, or any of the last day."""
    messages = {}
    for schedule in schedules:
        due = [at for at in schedule.due if schedule.since <= at <= now - rules.late_after]
        lately = [at for at in due if at >= now - rules.lookback] or due[-1:]
        missing = [at for at in lately if at not in schedule.ticked]
        if missing:
            when = f"at {_moment(missing[0])}"
            if len(missing) > 1:
                when = f"{len(missing)} times from {_moment(missing[0])} to {_moment(missing[-1])}"
            messages[f"{SCHEDULE}{schedule.name}"] = (
                f"It should have ticked {when} and did not. While `grade-ml up` is down nothing "
                "ticks; otherwise its daemon.log gives the reason."
            )
    return messages


def stale(
    schedules: Iterable[ScheduleRecord], now: datetime, rules: AlertRules = RULES
) -> dict[str, str]:
    """Return the schedules whose assets are older than twice their interval."""
    messages = {}
    for schedule in schedules:
        if len(schedule.due) < 2:
            continue
        interval = max(
            later - earlier for earlier, later in zip(schedule.due, schedule.due[1:], strict=False)
        )
        known = [schedule.since, *([schedule.skipped_at] if schedule.skipped_at else [])]
        limit = now - rules.intervals * interval
        old = {name: at for name, at in schedule.made_at.items() if max(at, *known) < limit}
        if old:
            listed = ", ".join(f"{name} ({_moment(at)})" for name, at in sorted(old.items())[:10])
            more = f" and {len(old) - 10} more" if len(old) > 10 else ""
            messages[f"{FRESHNESS}{schedule.name}"] = (
                f"Made last before {_moment(limit)}, two of its intervals ago: {listed}{more}."
            )
    return messages


@dataclass(frozen=True)
class Ticker:
    """A schedule or sensor, and how its newest tick ended."""

    name: str
    is_schedule: bool
    failures_in_a_row: int
    error: str


def failing(tickers: Iterable[Ticker], rules: AlertRules = RULES) -> dict[str, str]:
    """Return the schedules whose newest tick failed, and the sensors with several in a row."""
    return {
        f"{TICKS}{ticker.name}": f"The newest failed with {ticker.error}; "
        "the UI shows the whole error."
        for ticker in tickers
        if ticker.failures_in_a_row >= (1 if ticker.is_schedule else rules.failures_in_a_row)
    }


def silent(
    reported_at: datetime | None, now: datetime, rules: AlertRules = RULES
) -> dict[str, str]:
    """Return a message if the daemon no longer reports; no sensor could send it.

    Parameters
    ----------
    reported_at
        When it reported last, or was started if that is later; None if it does not run.
    """
    if reported_at is not None and now - reported_at <= rules.silent_after:
        return {}
    since = f" since {_moment(reported_at)}" if reported_at else ""
    return {
        DAEMON: f"It has not reported{since}; until it does no schedule and no sensor works. "
        "`grade-ml up` restarts a daemon that hangs; its daemon.log gives the reason."
    }


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


#: How the subjects of alerts begin.
SCHEDULE, FRESHNESS, TICKS = "schedule ", "freshness of ", "ticks of "
#: The only subject of `silent`.
DAEMON = "daemon"
#: Assets that a message names.
_NAMED = 10
