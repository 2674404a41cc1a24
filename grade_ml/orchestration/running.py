"""Runs a job in this process, for chosen courses or for the day, and reports what came of it.

The daemon and the UI do not use this; `grade-ml run` does.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass, field
from time import monotonic, perf_counter, sleep
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
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import RunFailureReason
from dagster._core.storage.dagster_run import ACTIVE_RUN_STATUSES

from grade_ml.core.clock import Clock
from grade_ml.core.errors import AlreadyRunningError, GradeMLError, NotFoundError, NotReadyError
from grade_ml.core.settings import Settings
from grade_ml.gradebook.catalog import course_ids, require_courses
from grade_ml.orchestration import catalog
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.courses import is_partial
from grade_ml.orchestration.instance import end_dead_runs, process_tag
from grade_ml.orchestration.jobs import JOBS
from grade_ml.orchestration.partitions import range_tags, ranges
from grade_ml.orchestration.resources import Platform

#: What a listener is told: the step's name and whether it has "started", "finished" or "failed".
StepListener = Callable[[str, str], None]
_TOLD_SECONDS = 60

_STATES = {
    DagsterEventType.STEP_START: "started",
    DagsterEventType.STEP_SUCCESS: "finished",
    DagsterEventType.STEP_FAILURE: "failed",
    DagsterEventType.STEP_SKIPPED: "skipped",
}
#: Run configuration without Dagster's lines on the console, one for each event.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Follower:
    """Who follows a run: is told of its steps and, once a minute, of the run that it waits for."""

    on_step: StepListener = lambda step, state: None
    on_wait: Callable[[DagsterRun], None] = lambda run: None
    wait_minutes: float = 60


@dataclass
class AssetSummary:
    """What was materialized of one asset: partitions, rows, seconds, and its numeric metadata."""

    asset: str
    partitions: int = 0
    rows: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class RunReport:
    """What came of a job: `failures` gives the reason by step, `warnings` names failed checks."""

    job: str
    courses: int
    run_ids: list[str] = field(default_factory=list)
    seconds: float = 0.0
    assets: list[AssetSummary] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        """Whether every step succeeded."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {"success": self.success, **asdict(self)}


@dataclass(frozen=True)
class Phase:
    """One run: the assets (None: all of the job), first and last partition (None: it has none)."""

    assets: tuple[AssetKey, ...] | None
    span: tuple[str, str] | None


def run_job(  # noqa: PLR0913 - one for each thing that differs
    settings: Settings,
    instance: DagsterInstance,
    name: str,
    courses: Collection[str] = (),
    follower: Follower = Follower(),
    *,
    definitions: Definitions | None = None,
    clock: Clock | None = None,
) -> RunReport:
    """Run the job `name` for `courses` (none given: for all) and report on it.

    Without `definitions`, they are those of `settings` and of what the environment says besides;
    without a `clock`, it is the machine's.
    The partitions are brought in step with the gradebook first. A job of days runs for the current
    day instead. A failure of a step is in the report, not raised. While another run holds a pool
    that this one needs, it waits.

    Raises
    ------
    KeyboardInterrupt
        The run was interrupted (SIGINT, SIGTERM); it is recorded as canceled.
    AlreadyRunningError
        The other run goes on after the follower's `wait_minutes`.
    NotFoundError
        There is no such job or course, and the error lists those there are; or courses are given
        for a job that knows none.
    NotReadyError
        The gradebook is empty.
    """
    if name not in [job.name for job in JOBS]:
        known = ", ".join(job.name for job in JOBS)
        raise NotFoundError(f"There is no job {name!r}.", f"Known jobs: {known}.")
    platform = Platform(settings, clock or Clock())
    definitions = definitions or build_defs(settings, clock=platform.clock)
    job = definitions.resolve_job_def(name)
    spans: Sequence[tuple[str, str] | None]
    if job.partitions_def is None or isinstance(job.partitions_def, DailyPartitionsDefinition):
        if courses:
            raise NotFoundError(f"The job {name} knows no courses.", "Leave out --course.")
        day = platform.as_of.isoformat()
        chosen, spans = set[str](), [None if job.partitions_def is None else (day, day)]
    else:
        chosen, spans = _spans(platform, instance, courses)
    report = RunReport(name, len(chosen))
    started = perf_counter()
    for phase in phases(definitions, job, spans):
        _wait_for_pools(instance, job.graph.pools, follower)
        _absorb(report, _execute(job, instance, phase, follower.on_step))
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
    """Wait until no run that lives holds one of `pools`; the queue does so for the daemon's."""
    told: tuple[str, float] | None = None
    minutes = follower.wait_minutes
    deadline = monotonic() + 60 * minutes
    while True:
        end_dead_runs(instance)
        holder = _holder(instance, pools)
        if holder is None:
            return
        if monotonic() >= deadline:
            raise AlreadyRunningError(
                f"The run {holder.run_id} ({holder.job_name}) still goes on after {minutes:g} "
                f"minutes of waiting, and it holds what {', '.join(sorted(pools))} allows once.",
                "Wait for it, end it in the Dagster UI, or wait longer with --wait.",
            )
        if told is None or told[0] != holder.run_id or monotonic() - told[1] >= _TOLD_SECONDS:
            follower.on_wait(holder)
            told = holder.run_id, monotonic()
        sleep(1)


def _holder(instance: DagsterInstance, pools: Set[str]) -> DagsterRun | None:
    if not pools:
        return None
    active = instance.get_runs(RunsFilter(statuses=ACTIVE_RUN_STATUSES))
    holding = (
        run
        for run in active
        if run.run_op_concurrency and pools & (run.run_op_concurrency.all_pools or set())
    )
    return next(holding, None)


def _execute(
    job: JobDefinition, instance: DagsterInstance, phase: Phase, on_step: StepListener
) -> ExecuteInProcessResult:
    run_id = str(uuid.uuid4())

    def listen(entry: EventLogEntry) -> None:
        event = entry.dagster_event
        if event and event.step_key and event.event_type in _STATES:
            on_step(event.step_key, _STATES[event.event_type])
        if event and event.is_step_failure and _is_interruption(event):
            # Otherwise Dagster takes it for a failure, of which everybody would be told.
            run = instance.get_run_by_id(run_id)
            assert run
            instance.report_run_canceling(run, "It was interrupted.")

    instance.add_event_listener(run_id, listen)
    result = job.execute_in_process(
        run_config=QUIET,
        instance=instance,
        raise_on_error=False,
        asset_selection=phase.assets,
        run_id=run_id,
        tags={**(range_tags(*phase.span) if phase.span else {}), **process_tag()},
    )
    ended = result.dagster_run
    if ended.status is DagsterRunStatus.CANCELED or _UNEXPECTED in ended.tags.values():
        raise KeyboardInterrupt
    return result


#: How Dagster marks a run that was interrupted between two steps.
_UNEXPECTED = RunFailureReason.UNEXPECTED_TERMINATION.value


def _is_interruption(event: DagsterEvent) -> bool:
    error = event.step_failure_data.error
    return error is not None and error.cls_name == DagsterExecutionInterruptedError.__name__


def _absorb(report: RunReport, result: ExecuteInProcessResult) -> None:
    report.run_ids.append(result.run_id)
    seconds = {}
    for event in result.all_events:
        if event.event_type is DagsterEventType.STEP_SUCCESS:
            seconds[str(event.step_key)] = event.step_success_data.duration_ms / 1000
        elif event.event_type is DagsterEventType.STEP_FAILURE:
            step = str(event.step_key)
            report.failures[step] = " ".join(
                dict.fromkeys([*filter(None, [report.failures.get(step)]), _reason(event)])
            )
        elif event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed:
                report.warnings.append(f"{check.asset_key.to_user_string()}: {check.check_name}")
        elif event.event_type is DagsterEventType.ASSET_MATERIALIZATION:
            _add_materialization(report, event)
    if not result.success and not report.failures:
        report.failures["run"] = f"The run {result.run_id} failed outside of its steps."
    for asset in report.assets:
        asset.seconds += seconds.get(asset.asset, 0.0)


def _add_materialization(report: RunReport, event: DagsterEvent) -> None:
    materialization = event.step_materialization_data.materialization
    name = materialization.asset_key.to_user_string()
    summary = next((asset for asset in report.assets if asset.asset == name), None)
    if summary is None:
        summary = AssetSummary(name)
        report.assets.append(summary)
    summary.partitions += materialization.partition is not None
    numbers = {
        name: value.value
        for name, value in materialization.metadata.items()
        if isinstance(value.value, int | float)
    }
    summary.rows += int(numbers.pop("dagster/row_count", 0))
    if materialization.partition is None:
        summary.figures.update(numbers)


def _reason(event: DagsterEvent) -> str:
    """Return the error that the program foresaw, else the innermost one."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None and error.cls_name not in _foreseen():
        error = error.cause
    if error is None:
        return "unknown"
    return error.message.strip().removeprefix("dagster._core.definitions.events.Failure: ")


def _foreseen() -> set[str]:
    found = [GradeMLError]
    for one in found:
        found += one.__subclasses__()
    return {one.__name__ for one in found}
