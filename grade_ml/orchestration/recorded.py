"""Reads Dagster's own tables: the last runs, the daemon, schedules, degraded assets.

For `grade-ml status`, which answers sooner than Dagster can be imported (1.6 s of processor time);
nothing is written. All other code uses `DagsterInstance`.
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
    rows = connection.execute(text(_LAST_RUNS), {"jobs": sorted(jobs), "tag": PROCESS_TAG})
    return {row.job: _run(row) for row in rows}


def newest_step(connection: Connection, run_id: str) -> str | None:
    """Return the step that a run started last; None: it has started none."""
    query = text(
        "select step_key from event_logs where run_id = :run_id "
        "and dagster_event_type = 'STEP_START' order by id desc limit 1"
    )
    step: str | None = connection.execute(query, {"run_id": run_id}).scalar()
    return step


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
    )


_STOPPED = """
select instigator_body from instigators where instigator_type = 'SCHEDULE' and status = 'STOPPED'
"""
_ENDED = ("SUCCESS", "FAILURE", "CANCELED")
_LAST_RUNS = """
select distinct on (pipeline_name) pipeline_name as job, run_id, status, create_timestamp, end_time,
    (select value from run_tags where run_tags.run_id = runs.run_id and key = :tag) as process
from runs where pipeline_name = any(:jobs)
order by pipeline_name, id desc
"""
#: A run that has begun has no result yet, and may never have one.
_ANSWERS = """
select distinct on (asset_key) asset_key, evaluation_event from asset_check_executions
where check_name = :check and execution_status in ('SUCCEEDED', 'FAILED')
order by asset_key, id desc
"""
