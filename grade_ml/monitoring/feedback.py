"""What monitoring tells training: how scores changed in courses whose change is confirmed.

It is the one way back in the order of rooms: training is given these values, it asks for nothing.
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
    """Return what scores say of courses whose change is confirmed now, or was before."""
    since = _confirmed(workspace) | changed_since(workspace.connection)
    recent = workspace.as_of - timedelta(days=concept.SETTINGS.news_days)
    suspected = {}
    for course, scored in load.scored(workspace, models, sorted(since)):
        if scored:
            day = since[course.course_id]
            found = _implied(workspace, course, models.pooled_champion()[1])
            new = found[found["scored_on"] >= pd.Timestamp(max(day, recent))]
            suspected[course.course_id] = Suspicion(new, scored.expectation, day)
    return change.changes(suspected, workspace.seed)


def _confirmed(workspace: Workspace) -> dict[str, date]:
    """Return since when the courses that are to be trained again have changed."""
    asked = decided(workspace.connection, workspace.as_of)
    stored = store.read(
        workspace.connection,
        workspace.as_of,
        days=SETTINGS.stale_days,
        kinds=[Kind.CONCEPT],
        courses=asked,
    )
    alarmed = {one.course_id: str(one.body["since"]) for one in stored if one.body.get("since")}
    before = timedelta(days=SETTINGS.longest_gap_days)
    return {
        name: date.fromisoformat(alarmed[name]) if name in alarmed else one.evidence_on - before
        for name, one in asked.items()
        if one.retrain and one.evidence_on
    }


def _implied(workspace: Workspace, course: Course, pooled: PooledModel) -> pd.DataFrame:
    """Return the scores of running sections beside what the pooled champion would have said."""
    running = course.records.running["section_id"]
    rows = course.snapshots[
        course.snapshots["section_id"].astype(object).isin(running)
        & (course.snapshots["cut_on"] <= pd.Timestamp(workspace.as_of))
    ].reset_index(drop=True)
    predicted = pooled.predict(beside(workspace.connection, rows, pooled.features))
    told = pd.DataFrame(
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
    return events(graded[graded["section_id"].isin(running)], told)
