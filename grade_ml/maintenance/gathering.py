"""Gathers facts from the databases and the machine; the orchestration adds those from Dagster."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core import database
from grade_ml.core.database import DatabaseUrls
from grade_ml.core.errors import ServiceError
from grade_ml.gradebook import quality
from grade_ml.gradebook.schema import load
from grade_ml.maintenance.facts import Course, Database, Disk, JobRuns, Records, Step
from grade_ml.maintenance.results import Status, job_result
from grade_ml.maintenance.usage import step_usage
from grade_ml.monitoring import store as monitoring
from grade_ml.monitoring.store import Kind

#: Counts cover a week, which contains every day of the week and every schedule at least once.
WEEK = timedelta(days=7)
#: A course that was last judged longer ago is left out.
JUDGED_DAYS = 3
_MB = 1 << 20


def jobs(connection: Connection, at: datetime) -> dict[str, JobRuns]:
    """Return the runs that ended in the week before `at`, by job."""
    column = job_result.c
    query = sa.select(column.job, column.status, column.seconds, column.ended_at).where(
        column.ended_at.between(at - WEEK, at),
        column.status != str(Status.CANCELED),
        # Another run has the result.
        ~column.retried,
    )
    rows = connection.execute(query.order_by(column.job, column.ended_at))
    return {job: _runs(list(group)) for job, group in groupby(rows, lambda row: row.job)}


def _runs(rows: list[Any]) -> JobRuns:
    """Return the runs of one job from its rows, oldest first."""
    done = [row for row in rows if row.status == Status.SUCCESS]
    return JobRuns(
        failed=len(rows) - len(done),
        newest_failed=rows[-1].status != Status.SUCCESS,
        durations=tuple(row.seconds for row in done),
        succeeded_at=done[-1].ended_at if done else None,
    )


def steps(connection: Connection, at: datetime) -> dict[str, Step]:
    """Return the usage of the steps that began in the week before `at`."""
    column = step_usage.c
    query = (
        sa.select(column.step, sa.func.max(column.peak_rss_mb), sa.func.sum(column.cpu_seconds))
        .where(column.started_at.between(at - WEEK, at))
        .group_by(column.step)
        .order_by(column.step)
    )
    return {name: Step(peak * _MB, cpu) for name, peak, cpu in connection.execute(query)}


def records(connection: Connection, at: datetime, as_of: date) -> Records:
    """Return the gradebook's loads in the week before `at`, and its running sections on `as_of`."""
    newest = connection.scalar(sa.select(sa.func.max(load.c.loaded_at)))
    query = sa.select(load.c.rows_loaded, load.c.rows_unchanged, load.c.rows_quarantined)
    rows = refused = 0
    for loaded, unchanged, quarantined in connection.execute(
        query.where(load.c.loaded_at.between(at - WEEK, at))
    ):
        rows += sum(loaded.values()) + sum(unchanged.values()) + quarantined
        refused += quarantined
    return Records(newest, quality.running_sections(connection, as_of), rows, refused)


def courses(connection: Connection, as_of: date) -> dict[str, Course]:
    """Return the health and drift of each course that was judged in the last days up to `as_of`."""
    judged = monitoring.newest_health(connection, as_of, JUDGED_DAYS)
    drifted = {
        signal.course_id: bool(signal.says)
        for signal in monitoring.signals(connection, as_of, days=JUDGED_DAYS)
        if signal.kind is Kind.DRIFT
    }
    return {
        name: Course(
            judged[name].score if name in judged else None,
            name in judged and judged[name].needs,
            drifted.get(name),
        )
        for name in sorted({*judged, *drifted})
    }


def disks(places: Mapping[str, str]) -> dict[str, Disk]:
    """Return the file systems of the local `places` (paths and URLs by name)."""
    by_place = {}
    for name, place in places.items():
        if "://" not in place:
            usage = shutil.disk_usage(_existing(Path(place)))
            by_place[name] = Disk(usage.total, usage.free)
    return by_place


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def databases(urls: DatabaseUrls) -> dict[str, Database | None]:
    """Return size and clients of each PostgreSQL database; None if it does not answer."""
    named = {"grade_ml": urls.grade_ml, "dagster": urls.dagster, "mlflow": urls.mlflow}
    return {name: _database(url) for name, url in named.items() if url.startswith("postgresql")}


_SIZE = """
select pg_database_size(current_database()),
    (select count(*) from pg_stat_activity where backend_type = 'client backend'),
    current_setting('max_connections')::int
"""


def _database(url: str) -> Database | None:
    engine = database.connect(url)
    try:
        with database.reachable(engine) as connection:
            return Database(*connection.execute(sa.text(_SIZE)).one())
    except ServiceError:  # None means that it does not answer
        return None
    finally:
        engine.dispose()


@dataclass(frozen=True)
class Made:
    """When an asset was made last, and whether it is due every day, even without new records."""

    at: datetime
    daily: bool = False


#: A nightly job may end two hours later than the night before.
GRACE = timedelta(hours=26)


def stale(made: Mapping[str, Made], loaded_at: datetime | None, at: datetime) -> tuple[str, ...]:
    """Return the assets that are older than the records that they should be made of.

    A load counts once a night has passed since: before, no asset is late. If no new records were
    loaded, no asset must be made again.

    >>> noon = datetime(2026, 11, 2, 12)
    >>> days = [noon - timedelta(days=number) for number in range(5)]
    >>> stale({"new": Made(days[1]), "old": Made(days[3])}, loaded_at=days[2], at=noon)
    ('old',)
    """
    is_due = loaded_at is not None and at - loaded_at > GRACE
    return tuple(
        name
        for name, asset in sorted(made.items())
        if (asset.daily and at - asset.at > GRACE)
        or (not asset.daily and is_due and loaded_at is not None and asset.at < loaded_at)
    )
