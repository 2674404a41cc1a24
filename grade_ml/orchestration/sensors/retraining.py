"""Courses whose drift is confirmed by loss or by labels are trained again."""

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
    sensor,
)
from dagster._core.storage.tags import RUN_KEY_TAG

from grade_ml.orchestration.in_flight import is_in_flight, worked_on
from grade_ml.orchestration.jobs import retrain_drifted_courses, train_advanced_ml_models
from grade_ml.orchestration.partitions import course, range_tags, ranges
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.sensors.reading import UNREADABLE, unreadable

if TYPE_CHECKING:
    from datetime import date

    from grade_ml.monitoring.retraining import Decision
    from grade_ml.training.requests import Request

#: The tag that tells people why a run was asked for; nothing reads it.
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

    A request is recorded before its run is asked for, and stays open until a training of the course
    has answered it: neither a restart of the daemon nor the pruning of runs repeats or forgets one.
    """
    from grade_ml.monitoring.retraining import decided, permitted
    from grade_ml.training import requests

    instance, as_of = context.instance, platform.as_of
    if is_in_flight(instance, train_advanced_ml_models.name):
        return SkipReason("All courses are being trained; what drifted is looked at afterwards.")
    known = instance.get_dynamic_partitions(str(course.name))
    busy = worked_on(instance, known, retrain_drifted_courses.name)
    try:
        with platform.connection() as connection:
            decisions = decided(connection, as_of)
            confirmed = {name: one for name, one in decisions.items() if name in known}
            asked = requests.newest(connection, as_of)
            act, wait = permitted(confirmed, asked, busy, as_of)
            new = list(_requests(known, act, as_of))
            requests.ask(connection, new, platform.clock.now())
    except UNREADABLE as error:
        return unreadable(error)
    before = [
        one
        for one in asked.values()
        if one.asked_on == as_of and not one.is_answered and one.course_id in known
    ]
    due = [
        request
        for request in _runs(known, [*before, *new])
        if not instance.get_runs(RunsFilter(tags={RUN_KEY_TAG: str(request.run_key)}), limit=1)
    ]
    if not due:
        waiting = "; ".join(f"{name}: {why}" for name, why in sorted(wait.items())[:5])
        return SkipReason(waiting or f"No drift of {len(decisions)} courses is confirmed.")
    return SensorResult(run_requests=due)


def _requests(
    known: Sequence[str], decisions: Mapping[str, Decision], as_of: date
) -> Iterator[Request]:
    """Yield the requests, those of one unbroken stretch of courses for one run."""
    from grade_ml.training.requests import Request

    for first, last in ranges(known, decisions.keys()):
        for name in known[known.index(first) : known.index(last) + 1]:
            one = decisions[name]
            key = f"drift-{first}-{last}-{as_of}"
            yield Request(name, one.reason, one.evidence_on, as_of, key)


def _runs(known: Sequence[str], requests: Iterable[Request]) -> Iterator[RunRequest]:
    """Yield the runs that the requests ask for; a key that Dagster knows starts no second run."""
    ordered = sorted(requests, key=lambda one: (one.run_key, known.index(one.course_id)))
    for key, group in groupby(ordered, key=lambda one: one.run_key):
        some = list(group)
        yield RunRequest(
            run_key=key,
            tags={
                **range_tags(some[0].course_id, some[-1].course_id),
                REASON: _shortened(f"{one.course_id}: {one.reason}" for one in some),
            },
        )


def _shortened(reasons: Iterable[str]) -> str:
    """Return the reasons in 2,000 bytes: PostgreSQL indexes tags, and cannot beyond 2,700."""
    # Only the half of a character that the cut may leave is ignored.
    return "; ".join(reasons).encode()[:2000].decode(errors="ignore")
