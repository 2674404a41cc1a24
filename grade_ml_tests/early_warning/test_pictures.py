"""Pictures of forecasts: drawn for every stage of a section, and without names."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from grade_ml.core.figures import Nothing
from grade_ml.early_warning import pictures
from grade_ml.early_warning.grade_paths import PathModel, grade_paths, results_so_far, standing
from grade_ml.early_warning.risk_periods import risk
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
        text = figure.words if isinstance(figure, Nothing) else svg(figure)
        assert not [name for name in ONE.students if name in text]


def test_a_calendar_shows_students_of_every_risk_and_their_number():
    calendar = pictures.risk_calendar(PATHS, "Calendar")
    assert f"{pictures.MOST_ROWS} of all 100 students" in svg(calendar)
    drawn = calendar.axes[0].images[0].get_array()
    most = PATHS.assign(risk=risk(PATHS)).groupby("student_id")["risk"].max()
    assert drawn[0].max() == pytest.approx(100 * most.max())
    assert drawn[-1].max() == pytest.approx(100 * most.min())


def test_of_a_class_without_work_or_differences_there_is_nothing_to_draw():
    assert pictures.risk_calendar(PATHS.head(0), "C") == Nothing("C: no work is due any more.")
    assert isinstance(pictures.course_fan(RESULTS.head(0), PATHS.head(0), 9, "C"), Nothing)
    alike = PATHS.assign(missed_probability=1.0, below_pass_probability=1.0)
    drawn = pictures.risk_calendar(alike, "C")
    assert isinstance(drawn, Nothing) and "is 100% in each week" in drawn.words


def test_the_running_grade_is_the_weighted_mean_of_what_is_known():
    student = RESULTS[RESULTS["student_id"] == ONE.students[3]]
    expected = student["score"].expanding().mean().tolist()
    assert student["running"].tolist() == pytest.approx(expected)
