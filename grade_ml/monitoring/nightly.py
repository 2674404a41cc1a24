"""Computes and stores the reports of chosen courses as of a day.

This module connects loading, computing and storing; each figure is defined in the module of its
name.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from joblib import Parallel, delayed

from grade_ml.monitoring import drift as drifts
from grade_ml.monitoring import estimation, load, store, streams
from grade_ml.monitoring import health as healths
from grade_ml.monitoring import performance as performances
from grade_ml.monitoring.courses import COLUMNS
from grade_ml.monitoring.drift import Comparing, Drift
from grade_ml.monitoring.estimation import ErrorEstimate
from grade_ml.monitoring.health import Health
from grade_ml.monitoring.performance import Unmeasured
from grade_ml.monitoring.processes import how_many, spread
from grade_ml.monitoring.retraining import Decision, decided
from grade_ml.monitoring.store import EVERYWHERE, Kind
from grade_ml.monitoring.streams import OfCourse, StreamAlarms, Streams
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.models import Models


def drift(workspace: Workspace, models: Models, names: Sequence[str]) -> dict[str, Drift]:
    """Compute and store `Kind.DRIFT` of the courses.

    Raises
    ------
    NotReadyError
        No model has been trained. The other reports raise the same error.
    """
    comparisons = spread(compared, workspace, models, names)
    usual = drifts.usual(comparisons.values())
    calls = [
        delayed(drifts.judged)(comparison, usual, workspace.seed)
        for comparison in comparisons.values()
    ]
    reports = Parallel(how_many(names), batch_size=load.AT_ONCE)(calls)
    bodies = dict(zip(comparisons, reports, strict=True))
    store.write(workspace.connection, Kind.DRIFT, workspace.as_of, bodies)
    return bodies


def compared(workspace: Workspace, models: Models, names: Sequence[str]) -> dict[str, Comparing]:
    """Compare running sections of the courses with past sections, without judging them."""
    present = load.courses(workspace, models, names)
    return {course.course_id: drifts.comparing(course) for course in present}


def performance(
    workspace: Workspace, models: Models, names: Sequence[str]
) -> dict[str, Unmeasured]:
    """Compute and store `Kind.PERFORMANCE` of the courses."""
    bodies = spread(_measured, workspace, models, names)
    store.write(workspace.connection, Kind.PERFORMANCE, workspace.as_of, bodies)
    return bodies


def _measured(workspace: Workspace, models: Models, names: Sequence[str]) -> dict[str, Unmeasured]:
    estimates: dict[int, ErrorEstimate | None] = {}
    by_course: dict[str, Unmeasured] = {}
    columns = [*COLUMNS, "grade_if_all_perfect"]
    for course, known in load.scored(workspace, models, names, columns):
        champion = course.champion
        if course.reason:
            by_course[course.course_id] = Unmeasured(model=champion.name, reason=course.reason)
            continue
        # Courses share the held-out rows of a pooled model, and so what is fitted on them.
        rows = champion.everywhere
        if id(rows) not in estimates:
            estimates[id(rows)] = estimation.fit(rows, workspace.seed)
        estimate = estimates[id(rows)]
        by_course[course.course_id] = performances.performance(
            champion,
            course.records,
            course.snapshots,
            (known.before, known.since) if known else None,
            estimate.at(champion.places) if estimate else None,
            workspace.seed,
        )
    return by_course


def concept(workspace: Workspace, models: Models, names: Sequence[str]) -> dict[str, StreamAlarms]:
    """Compute and store `Kind.CONCEPT` of the courses, and of all courses together."""
    connection, as_of = workspace.connection, workspace.as_of
    by_course = spread(_streams, workspace, models, names)
    _remember(workspace, by_course)
    matured = store.matured_errors(connection, as_of, names)
    rows = dict(iter(matured.groupby("course_id")))
    own: dict[str, OfCourse] = {
        name: course_streams.report(rows.get(name, matured.head(0)), as_of)
        for name, course_streams in by_course.items()
    }
    store.write(connection, Kind.CONCEPT, as_of, own)
    stored = store.read(connection, as_of, days=7, kinds=[Kind.CONCEPT])
    newest = {report.course_id: report.body for report in stored if report.course_id != EVERYWHERE}
    everywhere = streams.everywhere(newest.values(), as_of)
    bodies: dict[str, StreamAlarms] = {
        name: streams.together(body, everywhere) for name, body in own.items()
    }
    bodies[EVERYWHERE] = everywhere
    store.write(connection, Kind.CONCEPT, as_of, bodies)
    return bodies


def _streams(workspace: Workspace, models: Models, names: Sequence[str]) -> dict[str, Streams]:
    return {
        course.course_id: streams.streams(course, known, workspace.as_of)
        for course, known in load.scored(workspace, models, names, COLUMNS)
    }


def _remember(workspace: Workspace, by_course: dict[str, Streams]) -> None:
    fresh = [
        course_streams.fresh.assign(course_id=name)
        for name, course_streams in by_course.items()
        if len(course_streams.fresh)
    ]
    if fresh:
        store.remember_errors(workspace.connection, pd.concat(fresh, ignore_index=True))


def health(workspace: Workspace, models: Models, names: Sequence[str]) -> dict[str, Health]:
    """Compute and store `Kind.HEALTH` of the courses, from their other reports of the day."""
    connection, as_of = workspace.connection, workspace.as_of
    stored = store.read(connection, as_of, days=1, courses=names)
    bodies = {(report.course_id, report.kind): report.body for report in stored}
    decisions = decided(connection, as_of, names)
    by_course = {
        name: healths.health(
            bodies.get((name, Kind.PERFORMANCE), {}),
            bodies.get((name, Kind.DRIFT), {}),
            serving,
            decisions.get(name, Decision(False, "no report yet")),
            as_of,
        )
        for name, serving in load.serving(workspace, models, names)
    }
    bodies_of_health = {
        name: {
            "score": course_health.score,
            "worst": course_health.worst,
            "needs": course_health.needs,
        }
        | {"parts": course_health.parts, "decision": course_health.decision}
        for name, course_health in by_course.items()
    }
    store.write(connection, Kind.HEALTH, as_of, bodies_of_health)
    return by_course
