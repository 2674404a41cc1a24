"""Risk periods: which weeks, how grave, and how well they did."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grade_ml.early_warning.grade_paths import (
    KEY,
    PathModel,
    grade_paths,
    standing,
    true_paths,
    truths,
)
from grade_ml.early_warning.risk_periods import PERIODS, Driver, evaluate, risk_periods
from grade_ml_tests.early_warning.made import forecasts, panel

#: A student who is well and active.
CALM = {
    "current_week": 3,
    "pass_mark": 40.0,
    "starts_on": pd.Timestamp("2025-09-01"),
    "assignments_due": 2,
    "assignments_submitted": 2,
    "missed_streak": 0,
    "score_last_step": 0.0,
    "days_since_activity": 1.0,
    "grade_if_all_perfect": 95.0,
    "weight": 10.0,
}


def path(below: list[float], missed: list[float], **state: object) -> pd.DataFrame:
    rows = pd.DataFrame({"below_pass_probability": below, "missed_probability": missed})
    keys = {"course_id": "c", "section_id": "s", "student_id": "u", "as_of": "2025-09-20"}
    rows = rows.assign(**{**keys, **CALM, **state}, week=range(4, 4 + len(below)))
    return rows.astype({"as_of": "datetime64[ns]"})


def test_weeks_in_a_row_are_one_period():
    periods = risk_periods(path([0.1, 0.6, 0.7, 0.2, 0.9], [0.0] * 5))
    assert list(periods) == list(PERIODS)
    assert periods[["start_week", "end_week", "weeks_ahead"]].to_numpy().tolist() == [
        [8, 8, 5],
        [5, 6, 2],
    ]
    assert periods["severity"].tolist() == [0.9, 0.7]
    assert periods["starts_on"].iloc[1] == pd.Timestamp("2025-09-29")


def test_two_students_share_no_period():
    rows = pd.concat([path([0.9], [0.0]), path([0.9], [0.0]).assign(student_id="v")])
    assert len(risk_periods(rows)) == 2


def test_no_week_at_risk_gives_no_period():
    assert list(risk_periods(path([0.1], [0.2]))) == list(PERIODS)
    assert risk_periods(path([0.1], [0.2])).empty
    assert risk_periods(path([], [])).empty


@pytest.mark.parametrize(
    ("expected", "below", "missed", "state"),
    [
        (Driver.OUT_OF_REACH, 0.9, 0.95, {"grade_if_all_perfect": 30.0}),
        (Driver.NOT_STARTED, 0.9, 0.95, {"assignments_submitted": 0}),
        (Driver.SILENT, 0.6, 0.9, {"days_since_activity": 20.0}),
        (Driver.MISSED_IN_A_ROW, 0.9, 0.6, {"missed_streak": 2}),
        (Driver.WORK_DUE, 0.2, 0.6, {}),
        (Driver.FALLING_SCORES, 0.6, 0.2, {"score_last_step": -15.0}),
        (Driver.LOW_SCORES, 0.6, 0.2, {}),
        (Driver.LOW_SCORES, 0.6, 0.2, {"days_since_activity": np.nan, "score_last_step": np.nan}),
    ],
)
def test_the_driver_is_the_first_that_holds(expected, below, missed, state):
    assert risk_periods(path([below], [missed], **state))["driver"].tolist() == [str(expected)]


def test_a_week_with_much_more_work_than_others_is_heavy():
    rows = path([0.1, 0.1, 0.1], [0.1, 0.6, 0.1]).assign(weight=[5.0, 20.0, 5.0])
    assert risk_periods(rows)["driver"].tolist() == [str(Driver.HEAVY_WEEK)]


chances = st.lists(st.floats(0, 1), min_size=6, max_size=6)


@settings(max_examples=30, deadline=None)
@given(below=chances, missed=chances, rise=chances)
def test_more_risk_never_lowers_severity_nor_frees_a_week(below, missed, rise):
    def covered(rows: pd.DataFrame) -> dict[int, float]:
        return {
            week: period.severity
            for period in risk_periods(rows).itertuples()
            for week in range(period.start_week, period.end_week + 1)
        }

    higher = [min(1.0, chance + more) for chance, more in zip(below, rise, strict=True)]
    low, high = covered(path(below, missed)), covered(path(higher, missed))
    assert low.keys() <= high.keys()
    assert all(high[week] >= severity for week, severity in low.items())
    assert all(0.5 <= severity <= 1 for severity in high.values())


def test_figures_count_what_came_true():
    rows = path([0.1, 0.9, 0.1, 0.8], [0.0] * 4).assign(
        settled_weight=20.0, settled_points=15.0, low80=40.0, high80=60.0, low95=30.0, high95=70.0
    )
    happened = rows[[*KEY, "week"]].assign(
        grade=[50.0, 35.0, 45.0, 50.0],
        below_pass=[False, True, False, False],
        missed=[False, False, True, False],
    )
    everyone, fresh = evaluate(rows, happened)
    assert (everyone.weeks, everyone.periods, everyone.enrollments) == (4, 2, 1)
    assert (everyone.base_rate, everyone.flagged) == (0.5, 0.5)
    assert (everyone.precision, everyone.recall, everyone.lead_weeks) == (0.5, 0.5, 2.0)
    assert (everyone.coverage80, everyone.coverage95) == (0.75, 1.0)
    assert fresh.weeks == 4
    in_trouble = evaluate(rows.assign(missed_streak=1), happened)[1]
    assert (in_trouble.weeks, in_trouble.periods) == (0, 0)
    assert np.isnan(in_trouble.precision)


def test_flags_on_unseen_sections_come_true_more_often_than_not():
    seen = [panel(120, seed=n, section=f"s{n}") for n in range(6)]
    frame = pd.concat([forecasts(class_panel) for class_panel in seen])
    model = PathModel.fit(frame, truths(seen), standing(seen))
    new = [panel(200, seed=n, section=f"n{n}") for n in range(20, 24)]
    unseen, state = pd.concat([forecasts(class_panel) for class_panel in new]), standing(new)
    everyone, fresh = evaluate(
        grade_paths(unseen, state, model), true_paths(unseen, truths(new), state)
    )
    assert everyone.precision > max(0.5, everyone.base_rate)
    assert everyone.lead_weeks >= 1
    assert 0.7 < everyone.coverage80 < 0.95
    assert fresh.enrollments < everyone.enrollments
