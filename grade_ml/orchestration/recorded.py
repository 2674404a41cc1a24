"""Reads Dagster's own tables: the last runs, their steps, the daemon, schedules, degraded assets.

For commands, which answer sooner than Dagster can be imported (1.6 s of processor time); nothing is
written. All other code uses `DagsterInstance`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from grade_ml.core.process import Identity

#: The process of a run: its id, when it began, and the machine.
PROCESS_TAG = "grade_ml/process"
#: The check of what is degraded, and the key of its metadata with the reasons.
COMPLETE, REASONS = "complete", "degraded"


@dataclass(frozen=True)
class RecordedRun:
    """A run; its status is one of Dagster's, in lower case."""

    run_id: str
    status: str
    created_at: datetime
    ended_at: datetime | None
    #: It ended by accident, and the daemon has yet to start it again.
    starts_over: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether it waits or runs."""
        return self.status.upper() not in _ENDED


def last_runs(connection: Connection, jobs: Collection[str]) -> dict[str, RecordedRun]:
    """Return the newest run of each of `jobs` that ever ran.

    A run whose process was killed is a failure, also before it is reported to Dagster.
    """
    if not _exists(connection, "runs"):
        return {}
    rows = connection.execute(text(_LAST_RUNS), {"jobs": sorted(jobs), **_TAGS})
    return {row.job: _run(row) for row in rows}


@dataclass(frozen=True)
class StepEvent:
    """A step of a run began, succeeded or failed; a failure has the class of its error.

    `reason` is what the step gave as the reason, without the message of an unforeseen error.
    """

    run_id: str
    step: str
    kind: str
    error: str | None = None
    reason: str | None = None


def attempts(connection: Connection, job: str) -> list[RecordedRun]:
    """Return the newest run of a job and, before it, the runs that it continues."""
    if not _exists(connection, "runs"):
        return []
    return [_run(row) for row in connection.execute(text(_ATTEMPTS), {"job": job, **_TAGS})]


def step_events(connection: Connection, runs: Collection[str]) -> list[StepEvent]:
    """Return how the steps of these runs began and ended, in the order of the events."""
    rows = connection.execute(text(_STEP_EVENTS), {"runs": list(runs)})
    return [
        StepEvent(run_id, step, kind, *(_failure(failure) if failure else ()))
        for run_id, step, kind, failure in rows
    ]


def succeeded_since(
    connection: Connection, jobs: Collection[str], since: datetime
) -> frozenset[str]:
    """Return which of `jobs` have a run with success that was launched after a moment."""
    since = since.astimezone(UTC).replace(tzinfo=None)
    rows = connection.execute(text(_SUCCEEDED), {"jobs": list(jobs), "since": since})
    return frozenset(rows.scalars())


def daemon_reported_at(connection: Connection) -> datetime | None:
    """Return when a daemon reported last, which it does every 30 seconds; None if never."""
    if not _exists(connection, "daemon_heartbeats"):
        return None
    bodies = connection.execute(text("select body from daemon_heartbeats")).scalars()
    beats = [json.loads(body)["timestamp"] for body in bodies]
    return datetime.fromtimestamp(max(beats), UTC) if beats else None


def stopped_schedules(connection: Connection) -> set[str]:
    """Return the names of the schedules that a user switched off."""
    if not _exists(connection, "instigators"):
        return set()
    bodies = connection.execute(text(_STOPPED)).scalars()
    return {json.loads(body)["origin"]["job_name"] for body in bodies}


def incomplete(connection: Connection) -> dict[str, list[str]]:
    """Return by asset why it is degraded, by the newest result of its check."""
    if not _exists(connection, "asset_check_executions"):
        return {}
    degraded = {}
    for key, answer in connection.execute(text(_ANSWERS), {"check": COMPLETE}):
        metadata = json.loads(answer)["dagster_event"]["event_specific_data"]["metadata"]
        if reasons := metadata[REASONS]["data"]:
            degraded["/".join(json.loads(key))] = list(map(str, reasons))
    return degraded


def process_of(tags: Mapping[str, str]) -> Identity | None:
    """Return the process of a run by its tags; None if it is unknown or on another machine."""
    pid, created, node = (tags.get(PROCESS_TAG, "").split(maxsplit=2) + [""] * 3)[:3]
    return Identity(int(pid), created) if node == platform.node() and pid else None


def _exists(connection: Connection, table: str) -> bool:
    name = connection.execute(text("select to_regclass(:table)"), {"table": table}).scalar()
    return name is not None


def _run(row: Row[Any]) -> RecordedRun:
    process = process_of({PROCESS_TAG: row.process or ""})
    is_dead = row.status not in _ENDED and process is not None and not process.is_alive()
    return RecordedRun(
        row.run_id,
        "failure" if is_dead else row.status.lower(),
        row.create_timestamp.replace(tzinfo=UTC),
        None if row.end_time is None else datetime.fromtimestamp(row.end_time, UTC),
        starts_over=(is_dead and not row.not_again) or row.starts_over,
    )


def _failure(event: str) -> tuple[str | None, str | None]:
    data = json.loads(event)["dagster_event"]["event_specific_data"]
    error, given = data["error"], data["user_failure_data"]
    return error and error["cls_name"], given and given["description"]


_STOPPED = """
select instigator_body from instigators where instigator_type = 'SCHEDULE' and status = 'STOPPED'
"""
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_TAGS = {
    "process": PROCESS_TAG,
    "will_retry": "dagster/will_retry",
    "retry": "dagster/auto_retry_run_id",
    "root": "dagster/root_run_id",
    "max_retries": "dagster/max_retries",
}
_RUN = """run_id, status, create_timestamp, end_time,
    exists (select from run_tags
        where run_tags.run_id = runs.run_id and key = :max_retries and value = '0') as not_again,
    (select value from run_tags where run_tags.run_id = runs.run_id and key = :process) as process,
    status = 'FAILURE'
    and exists (select from run_tags
        where run_tags.run_id = runs.run_id and key = :will_retry and value = 'true')
    and not exists (select from run_tags
        where run_tags.run_id = runs.run_id and key = :retry) as starts_over"""
_LAST_RUNS = f"""
select distinct on (pipeline_name) pipeline_name as job, {_RUN}
from runs where pipeline_name = any(:jobs)
order by pipeline_name, id desc
"""
_ATTEMPTS = f"""
with newest as (
    select coalesce((select value from run_tags
        where run_tags.run_id = runs.run_id and key = :root), run_id) as root
    from runs where pipeline_name = :job order by id desc limit 1
)
select {_RUN} from runs, newest
where run_id = root or exists (select from run_tags
    where run_tags.run_id = runs.run_id and key = :root and value = root)
order by id
"""
_STEP_EVENTS = """
select run_id, step_key, dagster_event_type,
    case dagster_event_type when 'STEP_FAILURE' then event end
from event_logs where run_id = any(:runs)
and dagster_event_type in ('STEP_START', 'STEP_SUCCESS', 'STEP_FAILURE')
order by id
"""
_SUCCEEDED = """
select distinct pipeline_name from runs
where pipeline_name = any(:jobs) and status = 'SUCCESS' and create_timestamp > :since
"""
#: A run that has begun has no result yet, and may never have one.
_ANSWERS = """
select distinct on (asset_key) asset_key, evaluation_event from asset_check_executions
where check_name = :check and execution_status in ('SUCCEEDED', 'FAILED')
order by asset_key, id desc
"""
