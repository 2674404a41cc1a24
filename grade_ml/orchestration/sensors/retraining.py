"""Retrains courses whose drift is confirmed by loss or by labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from dagster import (
    DefaultSensorStatus,
    ResourceParam,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
)
from dagster._core.storage.tags import RUN_KEY_TAG

from grade_ml.orchestration.in_flight import is_in_flight, worked_on
from grade_ml.orchestration.jobs import retrain_drifted_courses, train_advanced_ml_models
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.ranges import range_tags, ranges
from grade_ml.orchestration.reading import UNREADABLE, unreadable
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.sensors.decorator import sensor

if TYPE_CHECKING:
    from datetime import date

    from grade_ml.monitoring.retraining import Decision
    from grade_ml.training.requests import Request

#: The tag that shows users why a run was requested; no code reads it.
REASON = "grade_ml/reason"


@sensor(
    job=retrain_drifted_courses,
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=300,
)
def drift_retraining(
    context: SensorEvaluationContext, platform: ResourceParam[Platform]
) -> SensorResult | SkipReason:
    """Train the courses again whose drift is confirmed by loss or by labels.

    A request is recorded before its run is requested, and stays open until a training of the course
    has answered it: neither a restart of the daemon nor the pruning of runs repeats or loses one.
    """
    from grade_ml.monitoring.retraining import decided, permitted
    from grade_ml.training import requests

    instance, as_of = context.instance, platform.as_of
    if is_in_flight(instance, train_advanced_ml_models.name):
        return SkipReason("All courses are being trained; drift is evaluated afterwards.")
    known = instance.get_dynamic_partitions(str(course.name))
    busy = worked_on(instance, known, retrain_drifted_courses.name)
    try:
        with platform.connection() as connection:
            decisions = decided(connection, as_of)
            confirmed = {name: decision for name, decision in decisions.items() if name in known}
            earlier = requests.newest(connection, as_of)
            act, wait = permitted(confirmed, earlier, busy, as_of)
            new = list(_requests(known, act, as_of))
            requests.record(connection, new, platform.clock.now())
    except UNREADABLE as error:
        return unreadable(error)
    before = [
        recorded
        for recorded in earlier.values()
        if recorded.asked_on == as_of and not recorded.is_answered and recorded.course_id in known
    ]
    due = [
        request
        for request in _runs(known, [*before, *new])
        if not instance.get_runs(RunsFilter(tags={RUN_KEY_TAG: str(request.run_key)}), limit=1)
    ]
    if not due:
        waiting = "; ".join(f"{name}: {why}" for name, why in sorted(wait.items())[:5])
        return SkipReason(
            waiting
            or f"None of the {len(decisions)} monitored courses has drift that is confirmed."
        )
    return SensorResult(run_requests=due)


def _requests(
    known: Sequence[str], decisions: Mapping[str, Decision], as_of: date
) -> Iterator[Request]:
    """Yield the requests, those of one unbroken stretch of courses for one run."""
    from grade_ml.training.requests import Request

    for first, last in ranges(known, decisions.keys()):
        for name in known[known.index(first) : known.index(last) + 1]:
            decision = decisions[name]
            key = f"drift-{first}-{last}-{as_of}"
            yield Request(name, decision.reason, decision.evidence_on, as_of, key)


def _runs(known: Sequence[str], requests: Iterable[Request]) -> Iterator[RunRequest]:
    """Yield the runs of the requests; a key that Dagster has seen starts no second run."""
    ordered = sorted(
        requests, key=lambda request: (request.run_key, known.index(request.course_id))
    )
    for key, group in groupby(ordered, key=lambda request: request.run_key):
        batch = list(group)
        yield RunRequest(
            run_key=key,
            tags={
                **range_tags(batch[0].course_id, batch[-1].course_id),
                REASON: _shortened(f"{request.course_id}: {request.reason}" for request in batch),
            },
        )


def _shortened(reasons: Iterable[str]) -> str:
    """Return the reasons in 2,000 bytes: PostgreSQL indexes tags, and cannot beyond 2,700."""
    # Only the half of a character that the cut may leave is ignored.
    return "; ".join(reasons).encode()[:2000].decode(errors="ignore")
