"""Computes for training how scores changed in courses whose change is confirmed.

It is the only flow against the order of packages: training gets these values as an argument and
imports nothing of monitoring.
"""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd

from grade_ml.ensemble.course import Change
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import COLLECTED
from grade_ml.features.surroundings import beside
from grade_ml.monitoring import change, concept, load, store
from grade_ml.monitoring.change import Suspicion
from grade_ml.monitoring.courses import Course
from grade_ml.monitoring.retraining import SETTINGS, decided
from grade_ml.monitoring.store import Kind
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.implied import events
from grade_ml.serving.models import Models
from grade_ml.training.course import changed_since


def changes(workspace: Workspace, models: Models) -> dict[str, Change]:
    """Return the change of scores in each course whose change is confirmed now, or was before."""
    since = _confirmed(workspace) | changed_since(workspace.connection)
    recent = workspace.as_of - timedelta(days=concept.SETTINGS.news_days)
    suspected = {}
    for course, scored in load.scored(workspace, models, sorted(since)):
        if scored:
            day = since[course.course_id]
            implied = _implied(workspace, course, models.pooled_champion()[1])
            new = implied[implied["scored_on"] >= pd.Timestamp(max(day, recent))]
            suspected[course.course_id] = Suspicion(new, scored.expectation, day)
    return change.changes(suspected, workspace.seed)


def _confirmed(workspace: Workspace) -> dict[str, date]:
    """Return the day since which each course that should be trained again has changed."""
    decisions = decided(workspace.connection, workspace.as_of)
    stored = store.read(
        workspace.connection,
        workspace.as_of,
        days=SETTINGS.stale_days,
        kinds=[Kind.CONCEPT],
        courses=decisions,
    )
    alarmed = {
        report.course_id: str(report.body["since"]) for report in stored if report.body.get("since")
    }
    before = timedelta(days=SETTINGS.longest_gap_days)
    return {
        name: date.fromisoformat(alarmed[name])
        if name in alarmed
        else decision.evidence_on - before
        for name, decision in decisions.items()
        if decision.retrain and decision.evidence_on
    }


def _implied(workspace: Workspace, course: Course, pooled: PooledModel) -> pd.DataFrame:
    """Return the scores of running sections with those that the pooled champion implies."""
    running = course.records.running["section_id"]
    rows = course.snapshots[
        course.snapshots["section_id"].astype(object).isin(running)
        & (course.snapshots["cut_on"] <= pd.Timestamp(workspace.as_of))
    ].reset_index(drop=True)
    predicted = pooled.predict(beside(workspace.connection, rows, pooled.features))
    predictions = pd.DataFrame(
        {
            "section_id": rows["section_id"].astype(object),
            "student": workspace.registry.pseudonyms.of(rows["student_id"]),
            "on": rows["cut_on"],
            "grade": predicted["grade"].to_numpy(),
            # Nothing scored yet means that no point is certain: a known 0.
            "collected": rows[COLLECTED].fillna(0.0),
            "weight_remaining": rows["weight_remaining"],
        }
    )
    graded = course.records.scores
    return events(graded[graded["section_id"].isin(running)], predictions)
