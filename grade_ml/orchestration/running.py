"""Runs a job in this process, for chosen courses or for the day, and reports its result.

The daemon and the UI do not use this; `grade-ml run` does.
"""

from __future__ import annotations

import itertools
import logging
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import date
from time import monotonic, perf_counter, sleep
from types import MappingProxyType
from typing import Any

from dagster import (
    AssetKey,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DailyPartitionsDefinition,
    Definitions,
    EventLogEntry,
    ExecuteInProcessResult,
    JobDefinition,
    RunsFilter,
)
from dagster._core.events import RunFailureReason
from dagster._core.storage.dagster_run import ACTIVE_RUN_STATUSES

from grade_ml.core.clock import Clock
from grade_ml.core.errors import AlreadyRunningError, NotReadyError
from grade_ml.core.process import variables
from grade_ml.core.settings import Settings
from grade_ml.gradebook.catalog import course_ids, require_courses
from grade_ml.maintenance.results import LAUNCHED_BY_TAG, PART_OF, LaunchedBy
from grade_ml.orchestration import catalog
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.courses import is_partial
from grade_ml.orchestration.instance import end_dead_runs, process_tag
from grade_ml.orchestration.job_descriptions import require_job
from grade_ml.orchestration.progress import INTERRUPTION
from grade_ml.orchestration.queue import NOT_AGAIN, time_limit
from grade_ml.orchestration.ranges import range_tags, ranges
from grade_ml.orchestration.reading import UNREADABLE
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.results import Summary, keep

logger = logging.getLogger(__name__)

#: Called with the name of a step and whether it has "started", "finished" or "failed".
StepListener = Callable[[str, str], None]
#: Seconds between two messages about the same wait.
_REPEAT_SECONDS = 60

_STATES = {
    DagsterEventType.STEP_START: "started",
    DagsterEventType.STEP_SUCCESS: "finished",
    DagsterEventType.STEP_FAILURE: "failed",
    DagsterEventType.STEP_SKIPPED: "skipped",
}
#: Let Dagster write what happens to many partitions in few statements. Two years of the nine assets
#: of days are 7,600 partitions: their events took over 400 s, and 50 s so, on a machine with ten
#: busy processes. In exchange, partitions are not marked as failed where the run fails.
_IN_FEW_EVENTS = {
    "DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS": "true",
    "DAGSTER_EVENT_BATCH_SIZE": "1000",
}
#: Run configuration without Dagster's lines on the console, one for each event.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Follower:
    """Follows a run: is called for its steps and, once a minute, for the run that it waits for."""

    on_step: StepListener = lambda step, state: None
    on_wait: Callable[[DagsterRun], None] = lambda run: None
    wait_minutes: float = 60


@dataclass(kw_only=True)
class RunReport(Summary):
    """The result of a job: `failures` gives the reason by step, `warnings` names failed checks."""

    job: str
    courses: int
    run_ids: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {"success": self.success, **asdict(self)}


@dataclass(frozen=True)
class Phase:
    """One run: the assets (None for all of the job), first and last partition (None without)."""

    assets: tuple[AssetKey, ...] | None
    span: tuple[str, str] | None


def run_job(  # noqa: PLR0913 - one for each thing that differs
    settings: Settings,
    instance: DagsterInstance,
    name: str,
    courses: Collection[str] = (),
    follower: Follower = Follower(),
    *,
    days: tuple[date, date] | None = None,
    definitions: Definitions | None = None,
    clock: Clock | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> RunReport:
    """Run the job `name` for `courses` (by default all) and report on it.

    By default, `definitions` are those of `settings` and of the environment, and `clock` is that of
    the machine. The runs have `tags` besides their own.
    First, the partitions are synchronized with the gradebook. A job of days runs for all `days`
    from the first to the last, by default for the current day. A failure of a step is in the
    report, not raised. While another run holds a pool that this run needs, it waits. The result of
    each run is recorded.

    Raises
    ------
    KeyboardInterrupt
        The run was interrupted (SIGINT, SIGTERM), and the argument says what is recorded; or the
        wait for a place was, and there is no argument.
    AlreadyRunningError
        The other run has not ended after the follower's `wait_minutes`.
    NotFoundError
        There is no such job or course, and the error lists the existing ones; or courses are given
        for a job without courses.
    NotReadyError
        The gradebook is empty.
    """
    require_job(name, courses)
    platform = Platform(settings, clock or Clock())
    definitions = definitions or build_defs(settings, clock=platform.clock)
    job = definitions.resolve_job_def(name)
    spans: Sequence[tuple[str, str] | None]
    if job.partitions_def is None or isinstance(job.partitions_def, DailyPartitionsDefinition):
        first, last = days or (platform.as_of, platform.as_of)
        span = None if job.partitions_def is None else (first.isoformat(), last.isoformat())
        chosen, spans = set[str](), [span]
    else:
        chosen, spans = _spans(platform, instance, courses)
    report = RunReport(job=name, courses=len(chosen))
    limited = {**time_limit(name, settings), **tags}
    started = perf_counter()
    for phase in phases(definitions, job, spans):
        _wait_for_pools(instance, job.graph.pools, follower)
        with variables(_IN_FEW_EVENTS) if days else nullcontext():
            ran = _execute(job, instance, phase, follower.on_step, limited)
        _keep(platform, instance, ran.run_id)
        if _was_interrupted(ran.dagster_run):
            raise KeyboardInterrupt("it is recorded as canceled")
        report.run_ids.append(ran.run_id)
        report.add_run(ran.all_events)
        if not all(map(is_partial, report.failures)):
            break
    report.seconds = perf_counter() - started
    return report


def _spans(
    platform: Platform, instance: DagsterInstance, courses: Collection[str]
) -> tuple[set[str], list[tuple[str, str]]]:
    with closing(platform), platform.connection() as connection:
        present = course_ids(connection)
    if not present:
        raise NotReadyError("The gradebook has no course.", "Load one with `grade-ml load`.")
    require_courses(courses, present)
    known = catalog.synchronize(instance, present)
    chosen = set(courses) or set(present)
    return chosen, list(ranges(known, chosen))


def phases(
    definitions: Definitions, job: JobDefinition, spans: Sequence[tuple[str, str] | None]
) -> Iterator[Phase]:
    """Yield the runs that materialize `job` over `spans` and everything unpartitioned only once."""
    if len(spans) == 1:
        yield Phase(None, spans[0])
        return
    graph = definitions.resolve_asset_graph()
    selected = job.asset_layer.selected_asset_keys
    order = [key for key in graph.toposorted_asset_keys if key in selected]
    for partitioned, keys in itertools.groupby(order, lambda key: graph.get(key).is_partitioned):
        assets = tuple(keys)
        for span in spans if partitioned else spans[:1]:
            yield Phase(assets, span)


def _wait_for_pools(instance: DagsterInstance, pools: Set[str], follower: Follower) -> None:
    """Wait until each of `pools` has a place; the queue does so for the daemon's runs."""
    reported: tuple[str, float] | None = None
    minutes = follower.wait_minutes
    deadline = monotonic() + 60 * minutes
    while True:
        end_dead_runs(instance)
        holder = _holder(instance, pools)
        if holder is None:
            return
        if monotonic() >= deadline:
            raise AlreadyRunningError(
                f"The run {holder.run_id} ({holder.job_name}) has not ended after {minutes:g} "
                f"minutes of waiting, and there is no other place in {', '.join(sorted(pools))}.",
                "Wait for it, end it in the Dagster UI, or wait longer with --wait.",
            )
        if (
            reported is None
            or reported[0] != holder.run_id
            or monotonic() - reported[1] >= _REPEAT_SECONDS
        ):
            follower.on_wait(holder)
            reported = holder.run_id, monotonic()
        sleep(1)


def _holder(instance: DagsterInstance, pools: Set[str]) -> DagsterRun | None:
    """Return a run that has the last place in one of `pools`; None if each has another place."""
    if not pools:
        return None
    places = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    active = instance.get_runs(RunsFilter(statuses=ACTIVE_RUN_STATUSES))
    for pool in pools:
        holding = [
            run
            for run in active
            if run.run_op_concurrency and pool in (run.run_op_concurrency.all_pools or ())
        ]
        if len(holding) >= places.get(pool, 1):
            return holding[-1]
    return None


def _execute(
    job: JobDefinition,
    instance: DagsterInstance,
    phase: Phase,
    on_step: StepListener,
    tags: Mapping[str, str],
) -> ExecuteInProcessResult:
    run_id = str(uuid.uuid4())

    def listen(entry: EventLogEntry) -> None:
        event = entry.dagster_event
        if event and event.step_key and event.event_type in _STATES:
            on_step(event.step_key, _STATES[event.event_type])
        if event and event.is_step_failure and _is_interruption(event):
            # Otherwise Dagster takes it for a failure, and an alert would be sent.
            run = instance.get_run_by_id(run_id)
            assert run
            instance.report_run_canceling(run, "It was interrupted.")

    instance.add_event_listener(run_id, listen)
    return job.execute_in_process(
        run_config=QUIET,
        instance=instance,
        raise_on_error=False,
        asset_selection=phase.assets,
        run_id=run_id,
        tags={
            LAUNCHED_BY_TAG: LaunchedBy.COMMAND.value,
            **(range_tags(*phase.span) if phase.span else {}),
            **process_tag(),
            # Dagster cannot start it again; a part starts again with the whole run.
            **({} if PART_OF in tags else NOT_AGAIN),
            **tags,
        },
    )


def _is_interruption(event: DagsterEvent) -> bool:
    error = event.step_failure_data.error
    return error is not None and error.cls_name == INTERRUPTION


def _keep(platform: Platform, instance: DagsterInstance, run_id: str) -> None:
    """Record the result of the run; without a database, the sensor `job_results` does it later."""
    record = instance.get_run_record_by_id(run_id)
    assert record
    try:
        with closing(platform), platform.connection() as connection:
            keep(connection, instance, [record])
    except UNREADABLE as error:
        logger.warning("The result of the run %s is not recorded yet: %s", run_id, error)


def _was_interrupted(run: DagsterRun) -> bool:
    return run.status is DagsterRunStatus.CANCELED or _UNEXPECTED in run.tags.values()


#: How Dagster marks a run that was interrupted between two steps.
_UNEXPECTED = RunFailureReason.UNEXPECTED_TERMINATION.value
