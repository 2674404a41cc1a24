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
    found = store.read(connection, day, days=1)
    return {(one.course_id, one.kind): json.dumps(one.body, sort_keys=True) for one in found}


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
    assert all(one["status"] == "tested" and not one["drifted"] for one in drifts)
    with engine.connect() as connection:
        assert not any(one.retrain for one in decided(connection, before).values())
    soon = CHANGED + timedelta(days=14)
    for day in (soon, TODAY):
        look(day)
    with engine.connect() as connection:
        asked = {name: one for name, one in decided(connection, soon).items() if one.retrain}
        newest = store.read(connection, TODAY, days=1)
        course, decision = next(iter(asked.items()))
        reports = report.history(connection, course, TODAY)
    assert "scores are lower" in decision.reason
    # Nothing that came to be known later changes what is said of a day in the past, nor does it
    # matter how many processes share the courses.
    assert look(before) == early
    monkeypatch.setattr(processes, "how_many", lambda names: 2)
    assert look(before) == early

    by_kind = {(one.course_id, one.kind): one.body for one in newest}
    drift = by_kind[course, Kind.DRIFT]
    assert drift["status"] == "tested" and drift["current_rows"] > 20
    assert "class_rate_mean" in drift["same_for_class"]
    assert drift["courses_compared"] == 3 and drift["past_sections"] == 2
    assert {one["feature"] for one in drift["output"]} == {"grade", "risk"}
    losses = {one["basis"]: one for one in by_kind[course, Kind.PERFORMANCE]["losses"]}
    assert losses["scores"]["risen"] and not losses["estimate"]["risen"]
    groups = {one["kind"] for one in by_kind[course, Kind.PERFORMANCE]["groups"]}
    assert {"all", "phase", "gender"} <= groups
    health = by_kind[course, Kind.HEALTH]
    assert 0 <= health["score"] <= 100 and set(health["parts"]) >= {"performance", "drift"}

    page = report.html(course, reports, report.drawn(reports))
    assert page.count("data:image/png;base64,") == 5
    assert "http" not in page
    assert "sim-0" not in page + json.dumps([dict(one.body) for one in newest])

    # Training within the term learns from scores what no outcome shows yet.
    with engine.begin() as connection:
        workspace = at(soon, connection, registry, settings.storage_root)
        changes = feedback.changes(workspace, Models(registry))
        assert set(changes) >= set(asked)
        assert all(one.share < -0.1 and one.gained.is_sure for one in changes.values())
        done = list(train(sorted(asked), lambda: nullcontext(workspace), changes))
        assert all(one.model and one.model.changed_on for one in done)
        assert set(changed_since(connection)) == set(asked)
        # What was told is looked at anew; errors of the model before are not the new one's.
        assert set(feedback.changes(workspace, Models(registry))) >= set(asked)


def test_what_a_model_says_of_a_course_is_compared_with_what_it_said_of_the_same_course(
    settings, engine
):
    campus = world(-18.0)
    registry = fill(settings, engine, campus)
    with engine.connect() as connection:
        workspace = at(TODAY, connection, registry, settings.storage_root)
        found = nightly.compared(workspace, Models(registry), campus.courses)
    for one in found.values():
        assert one.parts["output"].sizes[0] <= one.parts["features"].sizes[0]


def test_a_matured_row_that_is_known_stays_as_it_was(engine):
    row = {"course_id": "A", "section_id": "s", "assignment_id": "a", "batch": 0, "scores": 15}
    rows = pd.DataFrame([{**row, "matured_on": pd.Timestamp(TODAY), "error": 1.0, "z": 0.2}])
    later = rows.assign(error=9.0)
    other = rows.assign(batch=1, error=2.0)
    with engine.begin() as connection:
        store.remember_errors(connection, rows)
        store.remember_errors(connection, pd.concat([later, other], ignore_index=True))
        found = store.matured_errors(connection, TODAY)
    assert found["error"].tolist() == [1.0, 2.0]
