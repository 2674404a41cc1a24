"""Where there is nothing to forecast from, every stage says nothing, in frames as usual."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from grade_ml.core.frames import sound
from grade_ml.core.settings import Settings
from grade_ml.early_warning import store as risk_store
from grade_ml.early_warning.anomalies import ANOMALIES, anomalies, reference_of
from grade_ml.early_warning.grade_paths import (
    PathModel,
    grade_paths,
    results_so_far,
    simulate,
    standing,
    true_paths,
    truths,
)
from grade_ml.early_warning.interventions import PLAN, plan, proposals, read_table
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.early_warning.risk_periods import PERIODS, evaluate, risk_periods
from grade_ml.forecasting import store
from grade_ml.forecasting.activity import Activity
from grade_ml.forecasting.combination import Combination
from grade_ml.forecasting.contract import ACTIVITY, Method, schema
from grade_ml.forecasting.loading import running
from grade_ml_tests.early_warning.made import forecasts, panel
from grade_ml_tests.forecasting.campus import TODAY, fitted, said, workspace

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")


@pytest.fixture(scope="module")
def nothing() -> pd.DataFrame:
    return said().forecasts.head(0)


def same_types(found: pd.DataFrame, usual: pd.DataFrame) -> None:
    assert found.empty
    assert found.dtypes.astype(str).to_dict() == usual.dtypes.astype(str).to_dict()


def test_the_model_of_no_panel():
    found = fitted().model.forecast([], pd.DataFrame(), TODAY)
    same_types(found.forecasts, said().forecasts)
    same_types(found.activity, said().activity)
    assert sound(found.forecasts, schema())[1].empty
    assert sound(found.activity, schema(ACTIVITY))[1].empty


def test_activity_without_records():
    assert Activity.fit(pd.DataFrame()).forecast(pd.DataFrame(), {}).empty


def test_a_combination_of_no_rows():
    one = Combination((Method.LAST,), (), {("", 0): np.ones((2, 1))}, pd.DataFrame())
    found, dominant = one.combine(
        {Method.LAST: np.zeros((0, 2))}, np.zeros(0, object), np.zeros(0, int)
    )
    assert found.shape == (0, 2) and dominant.shape == (0,)


def test_paths_and_periods_without_forecasts(nothing: pd.DataFrame):
    section = panel()
    usual, state = forecasts(section), standing([section])
    same_types(standing([]), state)
    same_types(truths([]), truths([section]))
    assert results_so_far([]).columns.equals(results_so_far([section]).columns)
    same_types(simulate(nothing, standing([]), 0.4), simulate(usual, state, 0.4))
    paths = grade_paths(nothing, standing([]), PathModel())
    same_types(paths, grade_paths(usual, state, PathModel()))
    assert list(risk_periods(paths)) == list(PERIODS)
    happened = true_paths(nothing, truths([]), standing([]))
    same_types(happened, true_paths(usual, truths([section]), state))
    assert [one.weeks for one in evaluate(paths, happened)] == [0, 0]


def test_a_model_of_risk_without_forecasts(nothing: pd.DataFrame):
    found = RiskModel.fit(nothing, [panel()])
    assert found.degraded and found.paths == PathModel()


def test_a_student_without_a_result_and_one_whose_work_is_all_exempt():
    section = panel(students=3)
    nobody = replace(
        section,
        score=np.full_like(section.score, np.nan),
        submitted=np.full_like(section.submitted, np.nan),
        exempt=np.ones_like(section.exempt),
    )
    state = standing([nobody])
    assert (state["settled_weight"] == 0).all()
    paths = grade_paths(forecasts(section), state, PathModel())
    assert len(risk_periods(paths)) <= len(paths)
    assert len(results_so_far([nobody])) == 0


def test_anomalies_without_panels_forecasts_or_reference(nothing: pd.DataFrame):
    section = panel()
    for panels, before, known in (([], [], nothing), ([section], [], nothing)):
        found = anomalies(panels, before, known, {})
        assert found.empty and list(found) == list(ANOMALIES)
    assert not any(reference_of([], nothing, truths([])).values())


def test_a_plan_of_no_periods():
    nobody = risk_periods(grade_paths(said().forecasts.head(0), standing([]), PathModel()))
    assert proposals(nobody, read_table()).empty
    earlier = plan(nobody, read_table(), pd.DataFrame(columns=list(PLAN)), TODAY, 5)
    assert earlier.empty and plan(nobody, read_table(), earlier, TODAY, 5).empty


def test_a_night_on_which_no_section_runs(engine: Engine, settings: Settings):
    with workspace(engine, settings, date(1999, 1, 1)) as some:
        assert running(some, []).panels == []
        found = fitted().model.forecast([], running(some, []).weekly, some.as_of)
        store.write(some.connection, ["c"], some.as_of, found, 1)
        assert store.read_forecasts(some.connection, some.as_of, courses=["c"]).empty
        for table in (risk_store.risk_period, risk_store.intervention, risk_store.anomaly):
            empty = risk_store.read(some.connection, table, table.c.course_id == "c")
            risk_store.replace(some.connection, table, ["c"], some.as_of, empty)
