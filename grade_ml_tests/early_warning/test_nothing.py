"""Where there is nothing to forecast from, every stage returns empty frames as usual."""

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
from grade_ml.early_warning import tables as risk_tables
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
from grade_ml_tests.forecasting.campus import TODAY, campus_forecasts, fitted, workspace

pytestmark = pytest.mark.filterwarnings("error::FutureWarning")


@pytest.fixture(scope="module")
def nothing() -> pd.DataFrame:
    return campus_forecasts().forecasts.head(0)


def same_types(empty: pd.DataFrame, usual: pd.DataFrame) -> None:
    assert empty.empty
    assert empty.dtypes.astype(str).to_dict() == usual.dtypes.astype(str).to_dict()


def test_the_model_of_no_panel():
    output = fitted().model.forecast([], pd.DataFrame(), TODAY)
    same_types(output.forecasts, campus_forecasts().forecasts)
    same_types(output.activity, campus_forecasts().activity)
    assert sound(output.forecasts, schema())[1].empty
    assert sound(output.activity, schema(ACTIVITY))[1].empty


def test_activity_without_records():
    assert Activity.fit(pd.DataFrame()).forecast(pd.DataFrame(), {}).empty


def test_a_combination_of_no_rows():
    combination = Combination((Method.LAST,), (), {("", 0): np.ones((2, 1))}, pd.DataFrame())
    combined, dominant = combination.combine(
        {Method.LAST: np.zeros((0, 2))}, np.zeros(0, object), np.zeros(0, int)
    )
    assert combined.shape == (0, 2) and dominant.shape == (0,)


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
    assert [evaluation.weeks for evaluation in evaluate(paths, happened)] == [0, 0]


def test_a_model_of_risk_without_forecasts(nothing: pd.DataFrame):
    model = RiskModel.fit(nothing, [panel()])
    assert model.degraded and model.paths == PathModel()


def test_a_student_without_a_result_and_a_student_whose_work_is_all_exempt():
    section = panel(students=3)
    exempt = replace(
        section,
        score=np.full_like(section.score, np.nan),
        submitted=np.full_like(section.submitted, np.nan),
        exempt=np.ones_like(section.exempt),
    )
    state = standing([exempt])
    assert (state["settled_weight"] == 0).all()
    paths = grade_paths(forecasts(section), state, PathModel())
    assert len(risk_periods(paths)) <= len(paths)
    assert len(results_so_far([exempt])) == 0


def test_anomalies_without_panels_forecasts_or_reference(nothing: pd.DataFrame):
    section = panel()
    for panels, before, known in (([], [], nothing), ([section], [], nothing)):
        rows = anomalies(panels, before, known, {})
        assert rows.empty and list(rows) == list(ANOMALIES)
    assert not any(reference_of([], nothing, truths([])).values())


def test_a_plan_of_no_periods():
    periods = risk_periods(
        grade_paths(campus_forecasts().forecasts.head(0), standing([]), PathModel())
    )
    assert proposals(periods, read_table()).empty
    earlier = plan(periods, read_table(), pd.DataFrame(columns=list(PLAN)), TODAY, 5)
    assert earlier.empty and plan(periods, read_table(), earlier, TODAY, 5).empty


def test_a_nightly_run_without_a_running_section(engine: Engine, settings: Settings):
    with workspace(engine, settings, date(1999, 1, 1)) as day_workspace:
        assert running(day_workspace, []).panels == []
        output = fitted().model.forecast([], running(day_workspace, []).weekly, day_workspace.as_of)
        store.write(day_workspace.connection, ["c"], day_workspace.as_of, output, 1, {"c": None})
        assert store.read_forecasts(
            day_workspace.connection, day_workspace.as_of, courses=["c"]
        ).empty
        for table in (risk_tables.risk_period, risk_tables.intervention, risk_tables.anomaly):
            empty = risk_store.read(day_workspace.connection, table, table.c.course_id == "c")
            risk_store.replace(day_workspace.connection, table, ["c"], day_workspace.as_of, empty)
