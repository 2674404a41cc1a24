"""The JSON schema of each answer, which an application in any language may rely on.

`python -m grade_ml.engine.published` writes `docs/answers.schema.json`; tests compare the file with
this module, and real answers with the file. Fields are added, never renamed or removed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from grade_ml.engine.answers import GradePrediction, Refusal

#: The place of the file in a checkout.
FILE = Path(__file__).parents[2] / "docs" / "answers.schema.json"


class Account(TypedDict):
    """A number taken apart: baseline + contributions + remainders = predicted."""

    predicted: float
    baseline: float
    contributions: dict[str, float]
    remainders: dict[str, float]


class Contributions(TypedDict):
    """Why a prediction says what it says: points, log-odds, and the same as a probability."""

    section_id: str
    student_id: str
    cut_day: float
    grade: Account | None
    risk: Account
    risk_probability: Account
    values: dict[str, float | str | None]
    model: str
    degraded: list[str]


class Change(TypedDict):
    """One thing that a student would do otherwise."""

    kind: str
    to: float | str
    assignments: list[str]


class WhatIf(TypedDict):
    """Changes, and the forecasts with them."""

    grade: float
    risk: float
    changes: list[Change]


class Goal(TypedDict):
    """What could still be done to reach a goal."""

    status: str
    until: str | None
    goal: float | None
    now: float | None
    as_so_far: float | None
    best: float | None
    what_ifs: list[WhatIf]
    words: dict[str, list[str]]
    degraded: list[str]


class Explanation(TypedDict):
    """The answer of `get_model_explanations`."""

    prediction: GradePrediction
    reader: str
    language: str
    text: str | None
    stored: bool
    explanation: Contributions | None
    interactions: list[tuple[str, str, float]] | None
    what_if: Goal | None


class RemainingAssignment(TypedDict):
    """One assignment that is still to be due, and the score that is expected, 0-100."""

    assignment_id: str
    due_on: str
    weight: float
    mean: float
    median: float
    submit_probability: float
    low80: float
    high80: float
    low95: float
    high95: float
    method: str


class Week(TypedDict):
    """The running grade, 0-100, after a week's work, and two chances."""

    week: int
    day: float
    weight: float
    mean: float | None
    low95: float | None
    low80: float | None
    high80: float | None
    high95: float | None
    below_pass_probability: float | None
    missed_probability: float | None


class Period(TypedDict):
    """Weeks at risk."""

    start_week: int
    end_week: int
    starts_on: str
    weeks_ahead: int
    severity: float
    driver: str


class Intervention(TypedDict):
    """What is planned for the student, or left out and why."""

    rank: int
    action: str
    owner: str
    evidence: str
    driver: str
    timing: str
    planned_on: str | None
    left_out: str


class Forecast(TypedDict):
    """The answer of `generate_time_series_forecast`."""

    student_id: str
    course_id: str
    section_id: str
    as_of: str
    assignments: list[RemainingAssignment]
    weeks: list[Week]
    periods: list[Period]
    interventions: list[Intervention]
    own_results_alone: dict[str, list[float]]
    not_alone: dict[str, str]
    stored: bool
    records_from: str | None
    age_hours: float | None
    degraded: list[str]


class Predictions(TypedDict):
    """The answer of `predict_final_grades`."""

    answers: list[GradePrediction]
    refused: list[Refusal]


class Explanations(TypedDict):
    """The answer of `get_model_explanations_of`."""

    answers: list[Explanation]
    refused: list[Refusal]


class Forecasts(TypedDict):
    """The answer of `generate_time_series_forecasts`."""

    answers: list[Forecast]
    refused: list[Refusal]


#: Each call, and what it answers.
ANSWERS: dict[str, type[Any]] = {
    "predict_final_grade": GradePrediction,
    "predict_final_grades": Predictions,
    "get_model_explanations": Explanation,
    "get_model_explanations_of": Explanations,
    "generate_time_series_forecast": Forecast,
    "generate_time_series_forecasts": Forecasts,
}


def schema() -> dict[str, Any]:
    """Return the schemas of all answers: `calls` by the name of the call, on shared `$defs`."""
    kinds = [(name, "serialization", TypeAdapter(kind)) for name, kind in ANSWERS.items()]
    calls, shared = TypeAdapter.json_schemas(kinds)  # type: ignore[arg-type]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "calls": {name: schema for (name, _), schema in calls.items()},
        **shared,
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
