"""Facts of invented installations: of a healthy installation, and what differs from it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from grade_ml.maintenance.facts import (
    Course,
    Database,
    Disk,
    Facts,
    JobRuns,
    Queue,
    Records,
    Step,
)

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
GB = 10**9
NOTHING = Facts(NOON, Records(None, 0, 0, 0))
WELL = Facts(
    at=NOON,
    records=Records(NOON - timedelta(days=1), running_sections=8, rows=90_000, quarantined=0),
    queue=Queue(queued=1, started=2, longest_wait_seconds=600),
    jobs={
        "monitor_model_performance": JobRuns(durations=(40.0,) * 84, succeeded_at=NOON),
        "train_advanced_ml_models": JobRuns(durations=(900.0,) * 7, succeeded_at=NOON),
    },
    made=40,
    courses={"A": Course(100.0, False, False), "B": Course(100.0, False, False)},
    completeness={"pooled_ensemble": (), "drift_report": ()},
    disks={"home": Disk(250 * GB, 90 * GB)},
    steps={"pooled_ensemble": Step(2 * GB, 4000.0), "sections": Step(GB // 2, 3.0)},
    memory_bytes=8 * GB,
    databases={"grade_ml": Database(GB, 9, 100), "dagster": Database(GB // 4, 9, 100)},
)


def unwell(**differing: Any) -> Facts:
    return replace(WELL, **differing)
