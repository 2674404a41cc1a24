"""Where there is nothing to compare with, every report says so, in frames as of any other day."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from grade_ml.core.plain import plain
from grade_ml.monitoring import concept, detect_drift, estimation, records, store
from grade_ml.monitoring.champion import Champions
from grade_ml.monitoring.change import Suspicion, changes
from grade_ml.monitoring.courses import Course, scores
from grade_ml.monitoring.health import Serving, health
from grade_ml.monitoring.performance import performance
from grade_ml.monitoring.retraining import Decision
from grade_ml.monitoring.sections import Usual, compare
from grade_ml.monitoring.windows import windows
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.implied import events
from grade_ml_tests.factories import PSEUDONYMS
from grade_ml_tests.monitoring.world import TODAY, World, world

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")


@pytest.fixture
def empty_records(engine: Engine) -> records.Records:
    """What is known of a course of which the gradebook holds nothing."""
    with engine.connect() as connection:
        sections = records.all_sections(connection, TODAY)
        assert records.serving(connection, sections, TODAY).empty
        registry = Registry("", "", PSEUDONYMS)
        now = datetime(2025, 11, 24, tzinfo=UTC)
        return records.read(Workspace(connection, registry, "", TODAY, now), sections, ["c"])["c"]


@pytest.fixture
def campus() -> World:
    return world()


@pytest.fixture
def champion(campus: World):
    version = SimpleNamespace(name="pooled", version=1)
    served = SimpleNamespace(version=version, model=campus.model, degraded=())
    sections = campus.gradebook.sections.astype({"section_id": object})
    return Champions(sections).of("no such course", served)


def test_windows_without_records_or_snapshots(empty_records, champion, campus: World):
    for snapshots in (campus.snapshots, campus.snapshots.head(0)):
        found = windows(snapshots, champion, empty_records)
        assert found.reason and found.cut_on is None and found.output is None
        compared = compare(found.features)
        assert compared.sizes == (0, 0)
        assert Usual.of([compared]).courses >= 0


def test_performance_without_records(empty_records, champion, campus: World):
    for estimate in (None, estimation.fit(champion.everywhere, 0)):
        own = estimate.at(champion.places) if estimate else None
        found = performance(champion, empty_records, campus.snapshots.head(0), None, own, 0)
        assert found.loss is None and found.ece is None
        assert plain(found.groups) == []


def test_scores_of_courses_without_any(empty_records, champion, campus: World):
    one = Course("c", champion, empty_records, campus.snapshots.head(0))
    assert scores([]) == scores([one]) == {}
    everything = replace(champion, held_out=champion.everywhere)
    assert scores([replace(one, champion=everything)]) == {}


def test_concept_drift_without_events():
    nothing = events(
        pd.DataFrame(
            {
                "section_id": pd.Series(dtype=object),
                "course_id": pd.Series(dtype=object),
                "student": pd.Series(dtype="uint64"),
                "assignment_id": pd.Series(dtype=object),
                "category": pd.Series(dtype=object),
                "score": pd.Series(dtype="float64"),
                "scored_on": pd.Series(dtype="datetime64[ns]"),
            }
        ),
        pd.DataFrame(
            {
                "section_id": pd.Series(dtype=object),
                "student": pd.Series(dtype="uint64"),
                "on": pd.Series(dtype="datetime64[ns]"),
                **{
                    name: pd.Series(dtype="float64")
                    for name in ("grade", "collected", "weight_remaining", "share")
                },
            }
        ),
    )
    expectation = concept.Expectation(1.0, {}, 0.0)
    for as_of in (None, TODAY):
        rows = concept.stream(nothing, expectation, as_of)
        assert rows.empty and list(rows) == concept.STREAM
        assert concept.alarms([], rows) == []
    assert concept.learn(nothing) is None
    assert changes({}, 0) == {}
    assert changes({"c": Suspicion(nothing, expectation, date(2025, 1, 1))}, 0) == {}


def test_drift_of_frames_without_rows_or_columns():
    usual = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "y", "x"]})
    for reference, current in (
        (usual.head(0), usual),
        (usual, usual.head(0)),
        (usual.head(0),) * 2,
    ):
        found = detect_drift(reference, current)
        assert not found.drifted and not found.conclusive


def test_errors_that_nobody_can_estimate(campus: World):
    assert estimation.fit(campus.model.held_out.head(3), 0) is None


def test_health_of_a_course_of_which_nothing_is_known():
    nobody = Serving(enrolled=0, predicted=0, newest=None, degraded=())
    found = health({}, {}, nobody, Decision(False, "no report yet"), TODAY)
    assert found.score is None or np.isfinite(found.score)
    assert set(found.parts) >= {"performance", "drift", "serving"}


def test_reports_of_no_course(engine: Engine):
    with engine.begin() as connection:
        store.write(connection, store.Kind.DRIFT, TODAY, {})
        assert store.read(connection, TODAY, days=7) == []
        assert store.signals(connection, TODAY, days=7, courses=[]) == []
        assert store.matured_errors(connection, TODAY, ["c"]).empty
        assert store.newest_health(connection, TODAY) == {}
