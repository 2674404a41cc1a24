"""Reports of a small campus from real stores, before and after its grading changed."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest

from grade_ml.monitoring import feedback, nightly, processes, report, store
from grade_ml.monitoring.retraining import decided
from grade_ml.monitoring.store import Kind
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.models import Models
from grade_ml.training.course import changed_since, train
from grade_ml_tests.monitoring.world import CHANGED, TODAY, fill, world

pytestmark = pytest.mark.slow


def at(day: date, connection, registry: Registry, root: str) -> Workspace:
    return Workspace(connection, registry, root, day, datetime(2025, 11, 24, tzinfo=UTC))


def bodies(connection, day: date) -> dict[tuple[str, Kind], str]:
    reports = store.read(connection, day, days=1)
    return {
        (entry.course_id, entry.kind): json.dumps(entry.body, sort_keys=True) for entry in reports
    }


def test_a_change_of_grading_is_seen_in_time_and_days_of_the_past_stay_as_they_were(
    settings, engine, monkeypatch
):
    campus = world(-18.0)
    registry = fill(settings, engine, campus)

    def look(day: date) -> dict[tuple[str, Kind], str]:
        with engine.begin() as connection:
            workspace, models = (
                at(day, connection, registry, settings.storage_root),
                Models(registry),
            )
            for compute in (nightly.drift, nightly.performance, nightly.concept, nightly.health):
                compute(workspace, models, campus.courses)
        with engine.connect() as connection:
            return bodies(connection, day)

    before = CHANGED - timedelta(days=7)
    early = look(before)
    drifts = [json.loads(body) for (_, kind), body in early.items() if kind is Kind.DRIFT]
    # Every class differs from those before it, none by more than classes do.
    assert len(drifts) == len(campus.courses)
    assert all(
        drift_of_course["status"] == "tested" and not drift_of_course["drifted"]
        for drift_of_course in drifts
    )
    with engine.connect() as connection:
        assert not any(verdict.retrain for verdict in decided(connection, before).values())
    soon = CHANGED + timedelta(days=14)
    for day in (soon, TODAY):
        look(day)
    with engine.connect() as connection:
        requested = {
            name: verdict for name, verdict in decided(connection, soon).items() if verdict.retrain
        }
        newest = store.read(connection, TODAY, days=1)
        course, decision = next(iter(requested.items()))
        reports = report.history(connection, course, TODAY)
    assert "scores are lower" in decision.reason
    # Nothing that came to be known later changes what is stored of a day in the past, nor does it
    # matter how many processes share the courses.
    assert look(before) == early
    monkeypatch.setattr(processes, "how_many", lambda names: 2)
    assert look(before) == early

    by_kind = {(entry.course_id, entry.kind): entry.body for entry in newest}
    drift = by_kind[course, Kind.DRIFT]
    assert drift["status"] == "tested" and drift["current_rows"] > 20
    assert "class_rate_mean" in drift["same_for_class"]
    assert drift["courses_compared"] == 3 and drift["past_sections"] == 2
    assert {row["feature"] for row in drift["output"]} == {"grade", "risk"}
    losses = {loss["basis"]: loss for loss in by_kind[course, Kind.PERFORMANCE]["losses"]}
    assert losses["scores"]["risen"] and not losses["estimate"]["risen"]
    groups = {group["kind"] for group in by_kind[course, Kind.PERFORMANCE]["groups"]}
    assert {"all", "phase", "gender"} <= groups
    health = by_kind[course, Kind.HEALTH]
    assert 0 <= health["score"] <= 100 and set(health["parts"]) >= {"performance", "drift"}

    page = report.html(course, reports, report.drawn(reports))
    assert page.count("data:image/png;base64,") >= 3
    assert "http" not in page
    assert "sim-0" not in page + json.dumps([dict(entry.body) for entry in newest])

    # Training within the term learns from scores what no outcome shows yet.
    with engine.begin() as connection:
        workspace = at(soon, connection, registry, settings.storage_root)
        changes = feedback.changes(workspace, Models(registry))
        assert set(changes) >= set(requested)
        assert all(change.share < -0.1 and change.gained.is_sure for change in changes.values())
        done = list(train(sorted(requested), lambda: nullcontext(workspace), changes))
        assert all(trained.model and trained.model.changed_on for trained in done)
        assert set(changed_since(connection)) == set(requested)
        # The course is monitored again; errors of the former model are not those of the new model.
        assert set(feedback.changes(workspace, Models(registry))) >= set(requested)


def test_predictions_for_a_course_are_compared_with_earlier_predictions_for_the_same_course(
    settings, engine
):
    campus = world(-18.0)
    registry = fill(settings, engine, campus)
    with engine.connect() as connection:
        workspace = at(TODAY, connection, registry, settings.storage_root)
        by_course = nightly.compared(workspace, Models(registry), campus.courses)
    for comparison in by_course.values():
        assert comparison.parts["output"].sizes[0] <= comparison.parts["features"].sizes[0]


def test_a_matured_row_that_is_known_stays_as_it_was(engine):
    row = {"course_id": "A", "section_id": "s", "assignment_id": "a", "batch": 0, "scores": 15}
    rows = pd.DataFrame([{**row, "matured_on": pd.Timestamp(TODAY), "error": 1.0, "z": 0.2}])
    later = rows.assign(error=9.0)
    other = rows.assign(batch=1, error=2.0)
    with engine.begin() as connection:
        store.remember_errors(connection, rows)
        store.remember_errors(connection, pd.concat([later, other], ignore_index=True))
        errors = store.matured_errors(connection, TODAY)
    assert errors["error"].tolist() == [1.0, 2.0]
