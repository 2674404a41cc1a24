"""The result of a run, read from its events: for a report, and as the row that outlives them.

`keep` records results: the sensor `job_results` calls it for every run, `run_job` for its own, and
a clean-up for the runs that it deletes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    EventLogEntry,
    RunRecord,
)
from dagster._core.events import JobFailureData
from dagster._core.storage.tags import SCHEDULE_NAME_TAG, SENSOR_NAME_TAG, WILL_RETRY_TAG
from dagster_shared.error import SerializableErrorInfo
from sqlalchemy import Connection

from grade_ml.core.process import Usage
from grade_ml.maintenance import results, usage
from grade_ml.maintenance.results import (
    LAUNCHED_BY_TAG,
    PART_OF,
    TASK_TAG,
    JobResult,
    LaunchedBy,
    Status,
)
from grade_ml.orchestration import courses, recorded
from grade_ml.orchestration.in_flight import covered
from grade_ml.orchestration.partitions import course

#: Characters of an error and reasons of degradation that are stored; the page of the run has all.
_LONGEST, _REASONS = 4000, 50
_STATUSES = {
    DagsterRunStatus.SUCCESS: Status.SUCCESS,
    DagsterRunStatus.FAILURE: Status.FAILURE,
    DagsterRunStatus.CANCELED: Status.CANCELED,
}
#: How Dagster begins the message of an error that the program foresaw, raised as an error of its
#: own or through Dagster, and of a blocking check. The sentence after it contains all a user needs.
_FORESEEN = re.compile(
    r"^(grade_ml(\.\w+)+|dagster\._core\.definitions\.events\.Failure|"
    r"dagster\._core\.errors\.DagsterAssetCheckFailedError): "
)
#: In place of the class of an error whose message is the sentence alone.
_FORESEEN_ERROR = "foreseen"
#: In place of the step of a failure that belongs to none.
_WHOLE_RUN = "run"
_ENDS = {DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED}
_TOLD = {
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_CHECK_EVALUATION,
    *_ENDS,
}


@dataclass
class AssetSummary:
    """The materializations of one asset: partitions, rows, seconds, and its numeric metadata."""

    asset: str
    partitions: int = 0
    rows: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class Summary:
    """What runs wrote and what failed.

    `warnings` names failed checks, `failures` gives the reason by step (or `run`), `degraded` what
    was degraded and why, `failed_courses` the courses that a step left out, `defects` the steps
    whose failure the program did not foresee, so that its reason names no remedy.
    """

    assets: list[AssetSummary] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    degraded: list[str] = field(default_factory=list)
    failed_courses: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)

    @property
    def success(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @property
    def causes(self) -> list[str]:
        """Each reason of failures once, behind the steps that failed for it."""
        steps: dict[str, list[str]] = {}
        for step, reason in self.failures.items():
            steps.setdefault(reason, []).append(step)
        return [
            reason if names == [_WHOLE_RUN] else f"{', '.join(names)}: {reason}"
            for reason, names in steps.items()
        ]

    @property
    def counts(self) -> dict[str, int]:
        """How much was written, and how much failed."""
        return {
            "assets": len(self.assets),
            "partitions": sum(asset.partitions for asset in self.assets),
            "rows": sum(asset.rows for asset in self.assets),
            "failed_courses": len(self.failed_courses),
            "failed_checks": len(self.warnings),
        }

    def add_run(self, events: Iterable[DagsterEvent], *, quoting: bool = True) -> None:
        """Add one run by its events.

        Parameters
        ----------
        quoting
            Whether to include the message of an unforeseen error, which may contain a student's id.
            Otherwise its class and place are given.
        """
        seconds: dict[str, float] = {}
        made_in: dict[str, str] = {}
        end = None
        for event in events:
            if event.event_type is DagsterEventType.STEP_SUCCESS:
                seconds[str(event.step_key)] = event.step_success_data.duration_ms / 1000
            elif event.event_type is DagsterEventType.STEP_FAILURE:
                self._add_failure(str(event.step_key), event.step_failure_data.error, quoting)
            elif event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION:
                self._add_check(event)
            elif event.event_type is DagsterEventType.ASSET_MATERIALIZATION:
                made_in[self._add_materialization(event)] = str(event.step_key)
            elif event.event_type in _ENDS:
                end = event
        if end is not None and not self.failures:
            # A process that reports the end of a run from outside gives only a message.
            error = getattr(end.event_specific_data, "error", None)
            self._add_failure(_WHOLE_RUN, error, quoting, end.message or "unknown")
        for asset in self.assets:
            step = made_in.get(asset.asset, "")
            # If a step makes several assets, the time of each is unknown.
            if list(made_in.values()).count(step) == 1:
                asset.seconds += seconds.get(step, 0.0)

    def _add_failure(
        self,
        step: str,
        error: SerializableErrorInfo | None,
        quoting: bool,
        unknown: str = "unknown",
    ) -> None:
        before, reason = self.failures.get(step), unknown
        if error:
            reason = _reason(error, quoting)
            if not _is_foreseen(_cause(error)):
                self.defects = _distinct(self.defects, [step])
        self.failures[step] = " ".join(dict.fromkeys(filter(None, [before, reason])))

    def _add_check(self, event: DagsterEvent) -> None:
        check = event.asset_check_evaluation_data
        if check.passed:
            return
        self.warnings.append(f"{check.asset_key.to_user_string()}: {check.check_name}")
        metadata = {name: value.value for name, value in check.metadata.items()}
        if check.check_name == recorded.COMPLETE:
            self.degraded = _distinct(self.degraded, metadata.get(recorded.REASONS))
        elif check.check_name == courses.CHECK:
            self.failed_courses = _distinct(self.failed_courses, metadata.get(courses.FAILED))

    def _add_materialization(self, event: DagsterEvent) -> str:
        """Add a materialization, and return the name of its asset."""
        materialization = event.step_materialization_data.materialization
        name = materialization.asset_key.to_user_string()
        summary = next((asset for asset in self.assets if asset.asset == name), None)
        if summary is None:
            summary = AssetSummary(name)
            self.assets.append(summary)
        summary.partitions += materialization.partition is not None
        # An asset without the check `complete`, such as an external source, reports it only here.
        if reasons := materialization.metadata.get(recorded.REASONS):
            self.degraded = _distinct(self.degraded, reasons.value)
        numbers = {
            name: value.value
            for name, value in materialization.metadata.items()
            if isinstance(value.value, int | float)
        }
        summary.rows += int(numbers.pop("dagster/row_count", 0))
        if materialization.partition is None:
            summary.figures.update(numbers)
        return name


def with_cause(end: EventLogEntry, failed: Iterable[EventLogEntry]) -> EventLogEntry:
    """Return the failure of a run with the causes of its steps' failures in place of Dagster's.

    Parameters
    ----------
    failed
        The events of the steps' failures.
    """
    event = end.get_dagster_event()
    data, summary = event.event_specific_data, Summary()
    if not isinstance(data, JobFailureData):
        return end
    summary.add_run(entry.dagster_event for entry in failed if entry.dagster_event)
    if summary.failures:
        words = "\n".join(summary.causes)
        cause: SerializableErrorInfo | None = SerializableErrorInfo(words, [], None)
    else:
        cause = data.error and _cause(data.error)
        if cause and _is_foreseen(cause):
            cause = SerializableErrorInfo(_reason(cause, quoting=True), [], _FORESEEN_ERROR)
    caused = event._replace(event_specific_data=data._replace(error=cause))
    return end._replace(dagster_event=caused)


def _distinct(before: Sequence[str], more: Any) -> list[str]:
    """Return the texts of both without repetition; of a mapping, its keys."""
    return list(dict.fromkeys([*before, *(more or ())]))


def _reason(error: SerializableErrorInfo, quoting: bool) -> str:
    """Return the sentence of the error that the program foresaw, else the innermost error."""
    error = _cause(error)
    if quoting or _is_foreseen(error):
        return _FORESEEN.sub("", error.message.strip(), count=1)
    places = [re.search(r'File "(.+)", line (\d+), in (\S+)', frame) for frame in error.stack]
    last = next(filter(None, reversed(places)), None)
    if last is None:
        return str(error.cls_name)
    # Two parts identify the module; the whole path would identify the machine.
    path = "/".join(last[1].split("/")[-2:])
    return f"{error.cls_name} in {last[3]}, line {last[2]} of {path}"


def _cause(error: SerializableErrorInfo) -> SerializableErrorInfo:
    """Return the error that the program foresaw, else the innermost error."""
    while error.cause is not None and not _is_foreseen(error):
        error = error.cause
    return error


def _is_foreseen(error: SerializableErrorInfo) -> bool:
    return error.cls_name == _FORESEEN_ERROR or _FORESEEN.match(error.message) is not None


def keep(connection: Connection, instance: DagsterInstance, records: Iterable[RunRecord]) -> int:
    """Record the results of the runs that have ended; return how many were not recorded before."""
    ended = {
        record.dagster_run.run_id: record for record in records if record.dagster_run.is_finished
    }
    new = ended.keys() - results.known(connection, list(ended))
    used = usage.of_runs(connection, new)
    known = instance.get_dynamic_partitions(str(course.name)) if new else ()
    results.record(
        connection,
        [
            result_of(instance, record, known, used.get(name))
            for name, record in ended.items()
            if name in new
        ],
    )
    return len(new)


def result_of(
    instance: DagsterInstance, record: RunRecord, known: Sequence[str], used: Usage | None
) -> JobResult:
    """Return the result of a run that has ended.

    Parameters
    ----------
    known
        The courses that have a partition, in the order of the set.
    """
    run, summary = record.dagster_run, Summary()
    entries = instance.all_logs(run.run_id, of_type=_TOLD)
    summary.add_run(
        (entry.dagster_event for entry in entries if entry.dagster_event), quoting=False
    )
    ended = datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC)
    started = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else None
    return JobResult(
        run.run_id,
        run.job_name,
        launched_by(run.tags),
        _STATUSES[run.status],
        started,
        ended,
        courses=len(covered(known, run.tags)) or None,
        task=run.tags.get(TASK_TAG),
        part_of=run.tags.get(PART_OF),
        retried=run.tags.get(WILL_RETRY_TAG) == "true",
        seconds=(ended - started).total_seconds() if started else None,
        counts=summary.counts,
        degraded=tuple(summary.degraded[:_REASONS]),
        error=" ".join(summary.causes)[:_LONGEST] or None,
        peak_rss_mb=used.peak_rss_mb if used else None,
        cpu_seconds=used.cpu_seconds if used else None,
    )


def launched_by(tags: Mapping[str, str]) -> LaunchedBy:
    """Return what launched a run with `tags`; without such a tag, it counts as launched in the UI.

    >>> launched_by({"dagster/schedule_name": "monitoring"}).value
    'schedule'
    """
    if PART_OF in tags:
        return LaunchedBy.JOB
    if LAUNCHED_BY_TAG in tags:
        return LaunchedBy(tags[LAUNCHED_BY_TAG])
    if SCHEDULE_NAME_TAG in tags:
        return LaunchedBy.SCHEDULE
    return LaunchedBy.SENSOR if SENSOR_NAME_TAG in tags else LaunchedBy.UI
