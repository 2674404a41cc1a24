"""If there is nothing to compare with, every report gives the reason, in its usual frames."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from grade_ml.core.degradation import faults
from grade_ml.core.plain import plain
from grade_ml.ensemble.baseline import BaselineModel
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

QUIET = Decision(False, "no report yet")
pytestmark = pytest.mark.filterwarnings("error::FutureWarning")


@pytest.fixture
def empty_records(engine: Engine) -> records.Records:
    """The records of a course without any row in the gradebook."""
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


def test_that_the_baseline_serves_is_no_fault(baseline_of_small: BaselineModel, campus: World):
    version = SimpleNamespace(name="baseline", version=1)
    served = SimpleNamespace(version=version, model=baseline_of_small, degraded=())
    sections = campus.gradebook.sections.astype({"section_id": object})
    champion = Champions(sections).of("c", served)
    assert champion.degraded and not faults(champion.degraded)
    assert health({}, {}, Serving(80, 80, TODAY, champion.degraded), QUIET, TODAY).score == 100


def test_windows_without_records_or_snapshots(empty_records, champion, campus: World):
    for snapshots in (campus.snapshots, campus.snapshots.head(0)):
        compared_windows = windows(snapshots, champion, empty_records)
        assert (
            compared_windows.reason
            and compared_windows.cut_on is None
            and compared_windows.output is None
        )
        compared = compare(compared_windows.features)
        assert compared.sizes == (0, 0)
        assert Usual.of([compared]).courses >= 0


def test_performance_without_records(empty_records, champion, campus: World):
    for estimate in (None, estimation.fit(champion.everywhere, 0)):
        own = estimate.at(champion.places) if estimate else None
        measured = performance(champion, empty_records, campus.snapshots.head(0), None, own, 0)
        assert measured.loss is None and measured.ece is None
        assert plain(measured.groups) == []


def test_scores_of_courses_without_any(empty_records, champion, campus: World):
    course = Course("c", champion, empty_records, campus.snapshots.head(0))
    assert scores([]) == scores([course]) == {}
    everything = replace(champion, held_out=champion.everywhere)
    assert scores([replace(course, champion=everything)]) == {}


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
        drift = detect_drift(reference, current)
        assert not drift.drifted and not drift.conclusive


def test_too_few_rows_estimate_no_error(campus: World):
    assert estimation.fit(campus.model.held_out.head(3), 0) is None


def test_health_of_a_course_of_which_nothing_is_known():
    serving = Serving(enrolled=0, predicted=0, newest=None, degraded=())
    state = health({}, {}, serving, QUIET, TODAY)
    assert state.score is None or np.isfinite(state.score)
    assert set(state.parts) >= {"performance", "drift", "serving"}


def test_reports_of_no_course(engine: Engine):
    with engine.begin() as connection:
        store.write(connection, store.Kind.DRIFT, TODAY, {})
        assert store.read(connection, TODAY, days=7) == []
        assert store.signals(connection, TODAY, days=7, courses=[]) == []
        assert store.matured_errors(connection, TODAY, ["c"]).empty
        assert store.newest_health(connection, TODAY) == {}
