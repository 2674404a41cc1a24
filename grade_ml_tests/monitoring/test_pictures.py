"""Pictures of reports are drawn if they show something; otherwise a sentence gives the reason."""

from __future__ import annotations

from datetime import date

import pytest

from grade_ml.core.figures import Nothing
from grade_ml.monitoring import pictures, report
from grade_ml.monitoring.store import Kind, Stored

DAYS = [date(2025, 1, day) for day in (1, 8)]
FEATURE = {"feature": "a", "p": 0.01, "p_adjusted": 0.02, "effect": 0.5, "drifted": True}


def scored(*values: float | None) -> list[Stored]:
    return [
        Stored("c", day, Kind.HEALTH, {"score": value})
        for day, value in zip(DAYS, values, strict=False)
    ]


def erring(*values: float) -> list[Stored]:
    bounds = {"basis": "scores", "low": 1.0, "high": 9.0, "baseline": 4.0}
    return [
        Stored("c", day, Kind.PERFORMANCE, {"losses": [{**bounds, "value": value}]})
        for day, value in zip(DAYS, values, strict=False)
    ]


def matured(*days: date) -> dict:
    return {"rows": [{"matured_on": str(day), "z": 0.5} for day in days]}


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        (pictures.scores([]), "nothing is known yet"),
        (pictures.scores(scored(None, 75.0)), "75 of 100 (2025-01-08)"),
        (pictures.scores(scored(75.0, 75.0)), "without change"),
        (pictures.errors([]), "No error could be measured yet."),
        (pictures.errors(erring(5.126)), "by scores 5.13 points. A picture needs a second day."),
        (pictures.stream({"reason": "no score is new"}), "yet: no score is new."),
        (pictures.stream(matured(*DAYS[:1])), "scores of two days"),
        (pictures.shapes({}), "No feature was tested yet."),
        (pictures.shapes({"features": [FEATURE]}), "No feature drifted."),
        (pictures.significance({"reason": "too few rows"}), "No feature was tested: too few rows."),
    ],
)
def test_a_picture_that_would_show_nothing_is_a_sentence(drawn, words: str):
    assert isinstance(drawn, Nothing) and words in drawn.words


@pytest.mark.parametrize(
    "drawn",
    [
        pictures.scores(scored(75.0, 60.0)),
        pictures.errors(erring(5.0, 5.0)),
        pictures.stream(matured(*DAYS)),
        pictures.shapes({"shapes": {"a": {"labels": ["x"], "reference": [1], "current": [0]}}}),
        pictures.significance({"features": [FEATURE]}),
    ],
)
def test_a_picture_that_shows_something_is_drawn(drawn):
    drawn.canvas.draw()


def test_a_reason_is_shown_once_on_a_page():
    body = {"reason": "too few rows", "redesigned": ["c1 was redesigned: 1 <Exam> is new"]}
    reports = [Stored("c", DAYS[0], Kind.DRIFT, body)]
    page = report.html("c", reports, report.drawn(reports))
    assert "c1 was redesigned: 1 &lt;Exam&gt; is new" in page
    assert page.count("No feature was tested: too few rows.") == 1
