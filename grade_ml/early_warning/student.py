"""The forecast of one enrollment, for a person or a program to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd

from grade_ml.core.texts import note
from grade_ml.early_warning import pictures
from grade_ml.early_warning.grade_paths import PATHS, grade_paths, results_so_far, standing
from grade_ml.early_warning.interventions import Rule, proposals
from grade_ml.early_warning.loading import Enrollment
from grade_ml.early_warning.risk_periods import risk_periods
from grade_ml.forecasting.on_demand import Alone, alone

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ASSIGNMENT = (
    *("assignment_id", "due_on", "weight", "mean", "median", "submit_probability"),
    *("low80", "high80", "low95", "high95", "method"),
)
_PERIOD = ("start_week", "end_week", "starts_on", "weeks_ahead", "severity", "driver")
_PROPOSAL = (
    *("rank", "action", "owner", "evidence", "driver", "timing"),
    *("planned_on", "left_out"),
)


@dataclass(frozen=True)
class StudentForecast:
    """One enrollment's forecast.

    Attributes
    ----------
    as_of
        The day of the forecast.
    results
        As `grade_paths.results_so_far` returns them, of this student.
    assignments
        One row per remaining assignment: due_on, weight (share of the final grade, 0-100), mean and
        median score and bounds (0-100), chance to hand in (0-1), the method that counts most.
    weeks
        The student's rows of `grade_paths`.
    periods
        Risk periods, the gravest first.
    proposals
        What was planned for the student on that day, and why something is left out (planned_on NaT,
        left_out the reason); before the day's plan, the actions of the table of interventions.
    alone
        Forecasts of ARIMA and Prophet from the student's own results alone; for comparison.
    degraded
        Why this is less than it could be; empty if it is not.
    stored
        Whether it is the nightly run's forecast; else it was computed for this answer.
    records_from, age_hours
        When the newest records were loaded, and how long ago that is; `None` without any load.
    """

    student_id: str
    course_id: str
    section_id: str
    as_of: date
    day: int
    results: pd.DataFrame
    assignments: pd.DataFrame
    weeks: pd.DataFrame
    periods: pd.DataFrame
    proposals: pd.DataFrame
    alone: Alone
    degraded: tuple[str, ...]
    stored: bool = True
    records_from: datetime | None = None
    age_hours: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; dates are ISO texts, missing numbers None."""
        frames = {
            "assignments": self.assignments,
            "weeks": self.weeks[[name for name in PATHS if name not in _OF_RUN]],
            "periods": self.periods,
            "interventions": self.proposals,
        }
        return {
            **{name: str(getattr(self, name)) for name in _OF_RUN},
            **{name: _plain(frame) for name, frame in frames.items()},
            "own_results_alone": {
                name: [round(float(score), 2) for score in scores]
                for name, scores in self.alone.forecasts.items()
            },
            "not_alone": self.alone.reasons,
            "stored": self.stored,
            "records_from": self.records_from and self.records_from.isoformat(),
            "age_hours": self.age_hours,
            "degraded": list(self.degraded),
        }

    def in_words(self) -> str:
        """Return a paragraph for an adviser, and a line for each thing that may be done."""
        if self.weeks.empty:
            return f"Section {self.section_id} has nothing left to forecast on {self.as_of}."
        last = self.weeks.iloc[-1]
        sentences = [
            f"The forecast of {self.as_of} for section {self.section_id}: "
            f"{len(self.assignments)} assignments remain."
        ]
        if pd.notna(last["mean"]):
            sentences.append(
                f"The final grade is expected at about {last['mean']:.0f} of 100, with 80% "
                f"confidence between {last['low80']:.0f} and {last['high80']:.0f}; the chance that "
                f"it lies below {last['pass_mark']:.0f} is {last['below_pass_probability']:.0%}."
            )
        following = self.assignments.iloc[0]
        sentences.append(
            f"The next assignment is due on {following['due_on']:%Y-%m-%d}: it is handed in with a "
            f"chance of {following['submit_probability']:.0%}, and a score of about "
            f"{following['median']:.0f} is expected."
        )
        if self.alone.forecasts:
            expected = [f"{name} {scores[0]:.0f}" for name, scores in self.alone.forecasts.items()]
            sentences.append(
                f"Forecasts from the student's own results alone: {', '.join(expected)}."
            )
        sentences += [_period(row) for row in self.periods.to_dict("records")]
        if self.periods.empty:
            sentences.append("No week is at risk.")
        sentences += map(note, self.degraded)
        lines = [" ".join(sentences)]
        if len(self.proposals):
            lines.append("What may be done (that it helps is not measured here):")
            lines += [
                f"{row['rank']}. {row['action']} ({row['owner']})."
                + (f" Left out: {row['left_out']}." if row["left_out"] else "")
                for row in self.proposals.to_dict("records")
            ]
        return "\n".join(lines)

    def picture(self) -> Figure:
        """Draw the fan of the running grade and the chances of each week."""
        title = f"Running grade in {self.section_id}, {self.as_of}"
        return pictures.student_fan(self.results, self.weeks, self.day, title)


_OF_RUN = ("student_id", "course_id", "section_id", "as_of")


def _period(row: dict[Any, Any]) -> str:
    weeks = (
        f"Week {row['start_week']} is"
        if row["start_week"] == row["end_week"]
        else f"Weeks {row['start_week']} to {row['end_week']} are"
    )
    return (
        f"{weeks} at risk from {row['starts_on']:%Y-%m-%d} on "
        f"(chance {row['severity']:.0%}; {row['driver'].replace('_', ' ')})."
    )


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    dates = frame.select_dtypes("datetime").columns
    texts = frame.assign(**{name: frame[name].dt.strftime("%Y-%m-%d") for name in dates})
    rows: list[dict[str, Any]] = json.loads(texts.to_json(orient="records"))
    return rows


def student_forecast(known: Enrollment, rules: Sequence[Rule], seed: int) -> StudentForecast:
    """Return the forecast of one enrollment."""
    panels, forecasts, planned = known.panels, known.forecasts, known.planned
    weeks = grade_paths(forecasts, standing(panels), known.model.paths, seed)
    periods = risk_periods(weeks)
    start = pd.Timestamp(known.starts_on)
    days = forecasts["due_day"].map(lambda day: start + timedelta(days=int(day)))
    return StudentForecast(
        student_id=known.student_id,
        course_id=known.course_id,
        section_id=known.section_id,
        as_of=known.as_of,
        day=(known.as_of - known.starts_on).days,
        results=results_so_far(panels),
        assignments=forecasts.assign(due_on=pd.to_datetime(days))[list(_ASSIGNMENT)],
        weeks=weeks,
        periods=periods[list(_PERIOD)],
        proposals=(_proposed(periods, rules) if planned is None else planned)[list(_PROPOSAL)],
        alone=alone(panels[0]) if panels else Alone({}, {}),
        degraded=known.degraded,
        stored=known.stored,
    )


def _proposed(periods: pd.DataFrame, rules: Sequence[Rule]) -> pd.DataFrame:
    rows = proposals(periods, rules).assign(left_out="")
    rows["planned_on"] = pd.Series(pd.NaT, rows.index, dtype="datetime64[ns]")
    return rows
