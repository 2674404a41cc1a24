"""Pictures of forecasts: drawn for every stage of a section, and without names."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from grade_ml.early_warning import pictures
from grade_ml.early_warning.grade_paths import PathModel, grade_paths, results_so_far, standing
from grade_ml_tests.early_warning.made import forecasts, panel

ONE = panel(100, assignments=8)
PATHS = grade_paths(forecasts(ONE), standing([ONE]), PathModel())
RESULTS = results_so_far([ONE])


def svg(figure) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def of(rows: pd.DataFrame, student: str) -> pd.DataFrame:
    return rows[rows["student_id"] == student]


@pytest.mark.parametrize("results", [RESULTS, RESULTS.head(0)], ids=["running", "just begun"])
@pytest.mark.parametrize("paths", [PATHS, PATHS.head(0)], ids=["work to come", "all done"])
def test_every_stage_of_a_section_can_be_drawn(results, paths):
    student = ONE.students[0]
    drawn = [
        pictures.student_fan(of(results, student), of(paths, student), ONE.day, "Fan"),
        pictures.course_fan(results, paths, ONE.day, "Class"),
        pictures.risk_calendar(paths, "Calendar"),
    ]
    for figure in drawn:
        text = svg(figure)
        assert not [name for name in ONE.students if name in text]


def test_a_calendar_shows_the_most_at_risk_and_says_how_many_there_are():
    text = svg(pictures.risk_calendar(PATHS, "Calendar"))
    assert f"Calendar: {pictures.MOST_ROWS} of 100 students" in text


def test_the_running_grade_is_the_weighted_mean_of_what_is_known():
    student = RESULTS[RESULTS["student_id"] == ONE.students[3]]
    expected = student["score"].expanding().mean().tolist()
    assert student["running"].tolist() == pytest.approx(expected)
