"""Removes what Dagster itself keeps for ever: runs, events, checks, ticks and logs.

The newest materialization of an asset and partition, and the newest execution of a check, stay with
their runs: without them a partition would be missing again. Dagster deletes runs one by one; the
rest that remains (executions of checks, logs), also after a kill, is removed here as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.execution.backfill import BulkActionsFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.runs.schema import RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.schedules.schema import JobTickTable
from dagster._core.storage.schedules.sql_schedule_storage import SqlScheduleStorage
from dagster._core.storage.tags import BACKFILL_ID_TAG
from upath import UPath

from grade_ml.alerts.conditions import open_conditions
from grade_ml.core import database
from grade_ml.core.errors import ServiceError
from grade_ml.core.storage import remove_tree, size_of
from grade_ml.maintenance.cleaning import Found, Freed, total
from grade_ml.orchestration import results
from grade_ml.orchestration.catalog import ACTIVE_BACKFILL
from grade_ml.orchestration.sensors.facts import JOB

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

#: Ids in one statement.
_AT_ONCE = 1000
_EVENT, _CHECK = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
#: The run id of events that belong to no run, such as materializations reported by hand.
_RUNLESS = ""


@contextmanager
def _events(instance: DagsterInstance) -> Iterator[Connection]:
    storage = cast(SqlEventLogStorage, instance.event_log_storage)
    with _answering(), storage.index_connection() as connection:
        yield connection


@contextmanager
def _runs(instance: DagsterInstance) -> Iterator[Connection]:
    with _answering(), cast(SqlRunStorage, instance.run_storage).connect() as connection:
        yield connection


@contextmanager
def _ticks(instance: DagsterInstance) -> Iterator[Connection]:
    storage = cast(SqlScheduleStorage, instance.schedule_storage)
    with _answering(), storage.connect() as connection:
        yield connection


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        raise ServiceError(
            f"The database of Dagster cannot be cleaned up: {type(error).__name__}.",
            "Start it, or correct DAGSTER_POSTGRES_URL; the next clean-up continues.",
        ) from error


def newest_runs(instance: DagsterInstance) -> set[str]:
    """Return the runs with the newest materialization, or check, of an asset and partition."""
    made = sa.select(_EVENT.run_id).where(_EVENT.id.in_(_newest_materializations()))
    checked = sa.select(_CHECK.run_id).where(_CHECK.id.in_(_newest_checks()))
    with _events(instance) as connection:
        return {
            *connection.execute(made).scalars(),
            *connection.execute(checked).scalars(),
        }


def _newest_materializations() -> sa.Select[Any]:
    """Select the id of the newest materialization of each asset and partition."""
    return (
        sa.select(sa.func.max(_EVENT.id).label("id"))
        .where(_EVENT.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION.value)
        .group_by(_EVENT.asset_key, _EVENT.partition)
    )


def _newest_checks() -> sa.Select[Any]:
    """Select the ids of the newest execution of each check, and of the newest that has ended."""
    ended = _CHECK.execution_status != AssetCheckExecutionRecordStatus.PLANNED.value
    key = (_CHECK.asset_key, _CHECK.check_name, _CHECK.partition, ended)
    return sa.select(sa.func.max(_CHECK.id).label("id")).group_by(*key)


def _is_among(table: sa.Table, ids: sa.Select[Any]) -> sa.ColumnElement[bool]:
    """Return the condition; `not in` would read the ids again for every row once they are many."""
    chosen = ids.subquery()
    return sa.exists().where(chosen.c.id == table.c.id).correlate(table)


def _needed_runs(instance: DagsterInstance, engine: Engine) -> set[str]:
    """Return the newest run of each job, and the failed runs of jobs with an open alert.

    Without them a job would seem never to have run, and an alert would seem to be over.
    """
    with database.reachable(engine) as connection:
        subjects = [row.subject for row in open_conditions(connection)]
    alerted = [name.removeprefix(JOB) for name in subjects if name.startswith(JOB)]
    run = RunsTable.c
    newest = sa.select(sa.func.max(run.id)).group_by(run.pipeline_name)
    failed = sa.and_(run.pipeline_name.in_(alerted), run.status == DagsterRunStatus.FAILURE.value)
    with _runs(instance) as connection:
        query = sa.select(run.run_id).where(run.id.in_(newest) | failed)
        return set(connection.execute(query).scalars())


def outdated_runs(
    instance: DagsterInstance, engine: Engine, before: datetime
) -> tuple[list[str], int]:
    """Return the runs that may be removed, the oldest first, and how many stay.

    Runs in flight stay, runs of active backfills, those of `newest_runs`, the newest run of each
    job, and failed runs that have an open alert.
    """
    run = RunsTable.c
    with _runs(instance) as connection:
        old = connection.execute(
            sa.select(run.run_id)
            .where(run.status.in_([status.value for status in FINISHED_STATUSES]))
            .where(run.create_timestamp < before.astimezone(UTC).replace(tzinfo=None))
            .order_by(run.id)
        )
        outdated_ids = list(old.scalars())
        count = connection.execute(sa.select(sa.func.count()).select_from(RunsTable)).scalar_one()
    kept = newest_runs(instance) | _needed_runs(instance, engine) if outdated_ids else set()
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=ACTIVE_BACKFILL)):
        tags = {BACKFILL_ID_TAG: backfill.backfill_id}
        kept |= {member.run_id for member in instance.get_runs(RunsFilter(tags=tags))}
    removable = [run_id for run_id in outdated_ids if run_id not in kept]
    return removable, count - len(removable)


@dataclass(frozen=True)
class Runs:
    """Runs that ended long ago, with their events; their results stay in `job_result`."""

    instance: DagsterInstance
    engine: Engine
    before: datetime
    name: str = "Dagster runs"
    may_be_emptied: bool = False

    def find(self) -> Found:
        """Return what is outdated; bytes are those of events."""
        removable, kept = outdated_runs(self.instance, self.engine, self.before)
        with _events(self.instance) as connection:
            length = total(sa.func.length(_EVENT.event))
            sizes = [
                connection.execute(sa.select(length).where(_EVENT.run_id.in_(batch))).scalar_one()
                for batch in _parts(removable, _AT_ONCE)
            ]
        return Found(len(removable), sum(map(int, sizes)), kept)

    def remove(self) -> Freed:
        """Record the results of the runs and delete the runs."""
        size = self.find().bytes
        removable, _ = outdated_runs(self.instance, self.engine, self.before)
        for batch in _parts(removable, 100):
            records = self.instance.get_run_records(RunsFilter(run_ids=list(batch)))
            with database.reachable(self.engine) as connection:
                results.keep(connection, self.instance, records)
            for run_id in batch:
                with _answering():
                    self.instance.delete_run(run_id)
        freed = _vacuum(self.instance, SqlEventLogStorageTable.name, AssetEventTagsTable.name)
        return Freed(len(removable), freed, max(0, size - freed))


@dataclass(frozen=True)
class Leftovers:
    """Events and executions of checks whose run was deleted: Dagster leaves the latter."""

    instance: DagsterInstance
    name: str = "events and checks without a run"
    may_be_emptied: bool = True

    def find(self) -> Found:
        """Return what is outdated."""
        counts = [self._measured(table, column) for table, column in self._tables()]
        return Found(
            sum(count for count, _, _ in counts),
            sum(size for _, size, _ in counts),
            sum(kept for _, _, kept in counts),
        )

    def remove(self) -> Freed:
        """Delete them, except the newest of an asset and partition, whose run a user deleted."""
        outdated = self.find()
        for table, _ in self._tables():
            deleted_runs = self._gone(table)
            with _events(self.instance) as connection:
                for batch in _parts(deleted_runs, _AT_ONCE):
                    connection.execute(
                        sa.delete(table).where(
                            table.c.run_id.in_(batch), self._is_not_newest(table)
                        )
                    )
        with _events(self.instance) as connection:
            has_event = sa.exists().where(_EVENT.id == AssetEventTagsTable.c.event_id)
            connection.execute(sa.delete(AssetEventTagsTable).where(~has_event))
        freed = _vacuum(self.instance, *(table.name for table, _ in self._tables()))
        return Freed(outdated.count, freed, max(0, outdated.bytes - freed))

    @staticmethod
    def _tables() -> Iterable[tuple[sa.Table, sa.Column[Any]]]:
        return (
            (SqlEventLogStorageTable, _EVENT.event),
            (AssetCheckExecutionsTable, _CHECK.evaluation_event),
        )

    def _measured(self, table: sa.Table, column: sa.Column[Any]) -> tuple[int, int, int]:
        count = taken = 0
        deleted_runs = self._gone(table)
        with _events(self.instance) as connection:
            size = sa.select(sa.func.count(), total(sa.func.length(column)))
            for batch in _parts(deleted_runs, _AT_ONCE):
                query = size.where(table.c.run_id.in_(batch), self._is_not_newest(table))
                row = connection.execute(query).one()
                count, taken = count + int(row[0]), taken + int(row[1])
            all_rows = connection.execute(
                sa.select(sa.func.count()).select_from(table)
            ).scalar_one()
        return count, taken, int(all_rows) - count

    def _gone(self, table: sa.Table) -> list[str]:
        """Return the runs that are in the table but not in Dagster, read in this order."""
        with _events(self.instance) as connection:
            known = connection.execute(sa.select(table.c.run_id).distinct()).scalars().all()
        with _runs(self.instance) as connection:
            existing = set(connection.execute(sa.select(RunsTable.c.run_id)).scalars())
        return sorted({run_id for run_id in known if run_id} - existing - {_RUNLESS})

    @staticmethod
    def _is_not_newest(table: sa.Table) -> sa.ColumnElement[bool]:
        ids = _newest_checks() if table is AssetCheckExecutionsTable else _newest_materializations()
        return ~_is_among(table, ids)


@dataclass(frozen=True)
class Ticks:
    """Old ticks, except the newest of each schedule and sensor.

    The daemon removes ticks, too, but not those of schedules and sensors that no longer exist.
    """

    instance: DagsterInstance
    before: datetime
    name: str = "ticks"
    may_be_emptied: bool = False

    def find(self) -> Found:
        """Return what is outdated."""
        size = sa.select(sa.func.count(), total(sa.func.length(JobTickTable.c.tick_body)))
        with _ticks(self.instance) as connection:
            count, taken = connection.execute(size.where(self._outdated())).one()
            all_rows = connection.execute(size).one()[0]
        return Found(int(count), int(taken), int(all_rows) - int(count))

    def remove(self) -> Freed:
        """Delete them."""
        outdated = self.find()
        with _ticks(self.instance) as connection:
            connection.execute(sa.delete(JobTickTable).where(self._outdated()))
        freed = _vacuum(self.instance, JobTickTable.name)
        return Freed(outdated.count, freed, max(0, outdated.bytes - freed))

    def _outdated(self) -> sa.ColumnElement[bool]:
        tick = JobTickTable.c
        newest = sa.select(sa.func.max(tick.id).label("id"))
        newest = newest.group_by(tick.job_origin_id, tick.selector_id)
        before = self.before.astimezone(UTC).replace(tzinfo=None)
        return sa.and_(tick.timestamp < before, ~_is_among(JobTickTable, newest))


@dataclass(frozen=True)
class Logs:
    """The output of runs that ended long ago, or that no longer exist."""

    instance: DagsterInstance
    before: datetime
    name: str = "compute logs"
    may_be_emptied: bool = True

    def find(self) -> Found:
        """Return what is outdated."""
        removable, kept = self._divided()
        return Found(len(removable), sum(map(size_of, removable)), len(kept))

    def remove(self) -> Freed:
        """Delete the folders."""
        removable, _ = self._divided()
        size = sum(map(size_of, removable))
        for folder in removable:
            remove_tree(folder)
        return Freed(len(removable), size)

    def _divided(self) -> tuple[list[UPath], list[UPath]]:
        """Return the folders of logs that may be removed and those that stay."""
        manager = self.instance.compute_log_manager
        if not isinstance(manager, LocalComputeLogManager):
            return [], []  # another manager has a store with retention rules of its own
        with _answering():
            root = UPath(manager._base_dir)
            folders = [folder for folder in _folders(root) if (folder / "compute_logs").is_dir()]
            known = {
                record.dagster_run.run_id: record
                for batch in _parts([folder.name for folder in folders], _AT_ONCE)
                for record in self.instance.get_run_records(RunsFilter(run_ids=list(batch)))
            }
        removable = []
        for folder in folders:
            record = known.get(folder.name)
            if record is None:
                began, ended = _changed(folder), True
            else:
                began, ended = record.create_timestamp, record.dagster_run.is_finished
            if ended and began is not None and began < self.before:
                removable.append(folder)
        return removable, [folder for folder in folders if folder not in removable]


def _parts(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[at : at + size] for at in range(0, len(ids), size))


def _folders(root: UPath) -> Sequence[UPath]:
    """Return the folders in `root`, without links."""
    if not root.is_dir():
        return []
    return [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]


def _changed(folder: UPath) -> datetime | None:
    """Return when something in a folder was written last; None if it no longer exists."""
    try:
        return datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    except FileNotFoundError:  # another process removed it meanwhile
        return None


def _vacuum(instance: DagsterInstance, *tables: str) -> int:
    """Let PostgreSQL release the free space at the end of its tables; return the bytes."""
    size = sa.text(
        "select sum(pg_total_relation_size(cast(name as regclass))) "
        "from unnest(cast(:names as text[])) as name"
    )
    with _events(instance) as connection:
        if connection.dialect.name != "postgresql":
            return 0
        before = int(connection.execute(size, {"names": list(tables)}).scalar_one())
        for table in tables:
            connection.execute(sa.text(f"vacuum (analyze) {table}"))
        after = int(connection.execute(size, {"names": list(tables)}).scalar_one())
    return max(0, before - after)


def outdated(
    instance: DagsterInstance, engine: Engine, at: datetime, runs_days: int, logs_days: int
) -> Collection[Runs | Leftovers | Ticks | Logs]:
    """Return the kinds of Dagster's records that are outdated, in the order of their removal.

    Parameters
    ----------
    engine
        On the `grade_ml` database, which keeps the results of runs.
    at
        Now, by the clock that stamped runs.
    """
    before = at - timedelta(days=runs_days)
    return (
        Runs(instance, engine, before),
        Leftovers(instance),
        Ticks(instance, before),
        Logs(instance, at - timedelta(days=min(logs_days, runs_days))),
    )
