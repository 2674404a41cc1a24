"""Dagster's runs, backfills, ticks and assets, as the facts on which alerts are based.

`grade_ml.alerts.decisions` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    PartitionsDefinition,
    RepositoryDefinition,
    RunRecord,
    RunsFilter,
    ScheduleDefinition,
)
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.execution.backfill import (
    BulkActionsFilter,
    BulkActionStatus,
    PartitionBackfill,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorTick,
    InstigatorType,
    ScheduleInstigatorData,
    TickStatus,
)
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._utils.schedules import reverse_cron_string_iterator
from sqlalchemy import Connection

from grade_ml.alerts.decisions import RULES, EndedRun, ScheduleRecord, Ticker
from grade_ml.core.texts import readable
from grade_ml.maintenance import results
from grade_ml.orchestration.in_flight import assets_of, covered
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.results import keep

#: How the subjects of alerts begin.
JOB, MATERIALIZATION, BACKFILL = "job ", "materialization of ", "backfill of "
#: Runs of a job that are examined; one run holds 100 courses, so these are a backfill of 5,000.
_RUNS = 50
#: A run that was started by hand, failed, and was not repaired for a week no longer matters.
_BY_HAND = timedelta(days=7)
#: Assets that the subject of an alert names.
_NAMED = 3
#: Characters of why a run failed; its page has the whole text.
_REASON = 1000
_TICKED = [TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE]
_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE]


def ended_runs(
    instance: DagsterInstance, repository: RepositoryDefinition, now: datetime
) -> Iterator[EndedRun]:
    """Yield the newest runs that succeeded or failed, the newest first of each job.

    Runs of one job without courses (over days, or without a partition) repair each other. A run
    without a job, by hand or by a backfill, is repaired only by runs over the same assets and
    partitions: in a backfill of many days, later successes of other days repair nothing. A run that
    names no partition, or none that exists, is repaired by any later success of the same assets.
    """
    known = instance.get_dynamic_partitions(str(course.name))
    for name in repository.job_names:
        if name != IMPLICIT_ASSET_JOB_NAME:
            records = instance.get_run_records(RunsFilter(job_name=name, statuses=_ENDED), _RUNS)
            for run in _runs(records):
                targets = covered(known, run.tags) or {""}
                yield _ended(run, f"{JOB}{name}", {f"{JOB}{name} {target}" for target in targets})
    failures = RunsFilter(
        job_name=IMPLICIT_ASSET_JOB_NAME,
        statuses=[DagsterRunStatus.FAILURE],
        created_after=now - _BY_HAND,
    )
    failed = instance.get_run_records(failures, _RUNS)
    if failed:
        # Six thousand days are listed once, not for each run and asset.
        keys = cache(_keys)
        since = RunsFilter(statuses=_ENDED, created_after=failed[-1].create_timestamp)
        later = instance.get_run_records(since, 4 * _RUNS)
        for run in _runs([*later, failed[-1]]):
            if _is_success(run) or run.job_name == IMPLICIT_ASSET_JOB_NAME:
                assets = assets_of(run, repository)
                targets = set(_materialized(assets, run, known, repository, keys))
                yield _ended(run, f"{MATERIALIZATION}{_named(assets)}", targets)


def _runs(records: Sequence[RunRecord]) -> list[DagsterRun]:
    """Return the runs without those that died and that Dagster starts again."""
    runs = (record.dagster_run for record in records)
    return [run for run in runs if run.tags.get(WILL_RETRY_TAG) != "true"]


def _is_success(run: DagsterRun) -> bool:
    return run.status is DagsterRunStatus.SUCCESS


def _ended(run: DagsterRun, subject: str, targets: set[str]) -> EndedRun:
    return EndedRun(run.run_id, subject, frozenset(targets), _is_success(run))


def _materialized(
    assets: Set[AssetKey],
    run: DagsterRun,
    courses: Sequence[str],
    repository: RepositoryDefinition,
    keys: Callable[[PartitionsDefinition[str] | None], Sequence[str]],
) -> Iterator[str]:
    """Yield each asset and partition of a run; `keys` lists those of any set but the courses.

    A success, and a failure without a partition that exists, has the asset as a whole, too.
    """
    for key in assets:
        exists = repository.asset_graph.has(key)
        kind = repository.asset_graph.get(key).partitions_def if exists else None
        known = courses if kind == course else keys(kind)
        partitions = covered(known, run.tags)
        for partition in partitions | {""} if _is_success(run) or not partitions else partitions:
            yield f"{key.to_user_string()} {partition}"


def _keys(partitions: PartitionsDefinition[str] | None) -> Sequence[str]:
    """Return the partitions of a set that is not in a table, such as days."""
    return partitions.get_partition_keys() if partitions else ()


def _named(assets: Set[AssetKey]) -> str:
    names = sorted(key.to_user_string() for key in assets)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def reasons(
    connection: Connection, instance: DagsterInstance, run_ids: Sequence[str]
) -> dict[str, str]:
    """Return why the runs failed, by their results; unforeseen errors without their messages."""
    if not run_ids:
        return {}
    keep(connection, instance, instance.get_run_records(RunsFilter(run_ids=run_ids)))
    stored = {run_id: results.of(connection, run_id) for run_id in run_ids}
    return {
        run_id: readable((result and result.error) or "the UI shows its log.", _REASON)
        for run_id, result in stored.items()
    }


def failed_backfills(instance: DagsterInstance) -> dict[str, str]:
    """Return the backfills that Dagster could not continue; their runs are reported separately.

    The next that ends well over the same assets repairs it.
    """

    def newest(*statuses: BulkActionStatus) -> dict[str, PartitionBackfill]:
        backfills = instance.get_backfills(BulkActionsFilter(statuses=statuses), limit=_RUNS)
        # In a dictionary the last of a name stays: from the oldest to the newest.
        ordered = sorted(backfills, key=lambda backfill: backfill.backfill_timestamp)
        return {_backfilled(backfill): backfill for backfill in ordered}

    failed = newest(BulkActionStatus.FAILED)
    if not failed:
        return {}
    ended = newest(BulkActionStatus.COMPLETED_SUCCESS, BulkActionStatus.COMPLETED_FAILED)
    return {
        f"{BACKFILL}{name}": f"The backfill {backfill.backfill_id} failed; the UI shows why."
        for name, backfill in failed.items()
        if name not in ended or ended[name].backfill_timestamp < backfill.backfill_timestamp
    }


def _backfilled(backfill: PartitionBackfill) -> str:
    if backfill.partition_set_origin is not None:
        return backfill.partition_set_origin.partition_set_name.removesuffix("_partition_set")
    return _named(set(backfill.asset_selection or ()))


def tickers(instance: DagsterInstance, repository: RepositoryDefinition) -> Iterator[Ticker]:
    """Yield how the newest tick of each schedule and sensor ended."""
    for state in _running(instance, repository):
        for tick in _ticks(instance, state, statuses=_TICKED, limit=1):
            failed = tick.status is TickStatus.FAILURE
            yield Ticker(
                state.instigator_name,
                state.instigator_type is InstigatorType.SCHEDULE,
                max(1, tick.tick_data.consecutive_failure_count) if failed else 0,
                # Its message may contain anything.
                (tick.error.cls_name if tick.error else None) or "an error",
            )


def schedule_records(
    instance: DagsterInstance, repository: RepositoryDefinition, now: datetime
) -> Iterator[ScheduleRecord]:
    """Yield the ticks and assets of the schedules that are switched on."""
    states = {
        state.instigator_name: state
        for state in _running(instance, repository)
        if state.instigator_type is InstigatorType.SCHEDULE
    }
    scheduled = [definition for definition in repository.schedule_defs if definition.name in states]
    made = _made_at(instance)
    for schedule in scheduled:
        state = states[schedule.name]
        data = state.instigator_data
        assert isinstance(data, ScheduleInstigatorData)
        due = _due(schedule, now)
        ticks = _ticks(instance, state, after=due[0].timestamp() - 1)
        skipped = [tick.timestamp for tick in ticks if tick.status is TickStatus.SKIPPED]
        assets = repository.get_job(schedule.job_name).asset_layer.selected_asset_keys
        yield ScheduleRecord(
            schedule.name,
            datetime.fromtimestamp(data.start_timestamp or 0.0, UTC),
            due,
            {datetime.fromtimestamp(tick.timestamp, UTC) for tick in ticks},
            datetime.fromtimestamp(max(skipped), UTC) if skipped else None,
            {key.to_user_string(): made[key] for key in assets if key in made},
        )


def _due(schedule: ScheduleDefinition, now: datetime) -> list[datetime]:
    """Return when it should have ticked since the lookback, and the three times before."""
    times = reverse_cron_string_iterator(
        now.timestamp(), str(schedule.cron_schedule), schedule.execution_timezone
    )
    start, before = now - RULES.lookback, 3
    lately = []
    for at in times:
        lately.append(at.astimezone(UTC))
        before -= at < start
        if not before:
            break
    return lately[::-1]


def _made_at(instance: DagsterInstance) -> Mapping[AssetKey, datetime]:
    newest = {
        record.asset_entry.asset_key: record.asset_entry.last_materialization
        for record in instance.get_asset_records()
    }
    return {
        key: datetime.fromtimestamp(event.timestamp, UTC) for key, event in newest.items() if event
    }


def _running(
    instance: DagsterInstance, repository: RepositoryDefinition
) -> Iterator[InstigatorState]:
    """Yield the states of the repository's schedules and sensors that are switched on."""
    names = {schedule.name for schedule in repository.schedule_defs}
    names |= {sensor.name for sensor in repository.sensor_defs}
    for state in instance.all_instigator_state():
        if state.is_running and state.instigator_name in names:
            yield state


def _ticks(
    instance: DagsterInstance, state: InstigatorState, **filters: Any
) -> Sequence[InstigatorTick]:
    return instance.get_ticks(state.instigator_origin_id, state.selector_id, **filters)
