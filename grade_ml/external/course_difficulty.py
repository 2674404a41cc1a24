"""How hard each course has been, from the gradebook: what `two_way` finds, and plain shares.

Only sections that have ended and scores that were given by then count. The estimates are renewed
each Monday; they are about a course, not about the campus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from grade_ml.external.protocol import (
    COURSE_PLACE,
    About,
    Observation,
    Place,
    RateLimit,
    Series,
    Window,
)

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.external.client import Client

MONDAY = 0
#: Digits that do not depend on the order of the rows.
DECIMALS = 6
_PASSED = ("pass", "distinction")


@dataclass(frozen=True)
class Records:
    """Four frames with the gradebook's column names and dates at midnight."""

    sections: pd.DataFrame
    enrollments: pd.DataFrame
    assignments: pd.DataFrame
    results: pd.DataFrame


def place_of(course_id: str) -> str:
    """Return the place that observations about a course have."""
    return COURSE_PLACE + course_id


@dataclass(frozen=True)
class CourseDifficulty:
    """Difficulty with its standard error, and pass and withdrawal rates, of each course."""

    records: Records
    about = About(
        name="course_difficulty",
        title="Gradebook",
        terms="The university's own records.",
        series=(
            Series("difficulty", "points", keep=28, low=-100, high=100),
            Series("difficulty_error", "points", keep=28, low=0),
            Series("mean_grade", "points", keep=28, low=0, high=100),
            Series("grade_spread", "points", keep=28, low=0, high=100),
            Series("pass_rate", "share", keep=28, low=0, high=1),
            Series("withdrawal_rate", "share", keep=28, low=0, high=1),
        ),
        lookback=7,
        ttl=timedelta(),
        settles=timedelta(),
        limit=RateLimit(every=timedelta(), burst=1),
        freshness=timedelta(days=7),
    )

    def fetch(
        self, client: Client, window: Window, place: Place, now: datetime
    ) -> Iterator[Observation]:
        """Yield the estimates of each Monday that is over or today."""
        import numpy as np

        grades, outcomes = _grades(self.records), _outcomes(self.records)
        changes = sorted({*grades["visible_on"], *outcomes["visible_on"]})
        estimates, seen = None, -1
        for day in window.days():
            if day.weekday() != MONDAY or day > now.astimezone(place.zone).date():
                continue
            count = _number_until(changes, day)
            if count != seen:
                estimates, seen = _estimates(grades, outcomes, day), count
            assert estimates is not None
            available_at = min(place.end_of(day), now)
            for course, values in estimates.iterrows():
                place_key = place_of(str(course))
                for series, value in values.items():
                    known = None if np.isnan(value) else round(float(value), DECIMALS)
                    yield Observation(str(series), day, available_at, known, place_key)


def _number_until(changes: list[pd.Timestamp], day: date) -> int:
    import bisect

    import pandas as pd

    return bisect.bisect_right(changes, pd.Timestamp(day))


def _grades(records: Records) -> pd.DataFrame:
    """Return one row per score of a section, with its course and the day it counts from."""
    import pandas as pd

    sections = records.sections[["section_id", "course_id", "ends_on"]]
    assignments = records.assignments[["assignment_id", "section_id", "weight"]]
    scored = records.results.dropna(subset="score")
    rows = scored.merge(assignments, on="assignment_id").merge(sections, on="section_id")
    given_on = rows["graded_on"].fillna(rows["submitted_on"]).fillna(rows["ends_on"])
    rows["visible_on"] = pd.concat([given_on, rows["ends_on"]], axis=1).max(axis=1)
    columns = ["course_id", "section_id", "student_id", "score", "weight", "visible_on"]
    return rows[columns].sort_values(["section_id", "student_id"], kind="stable")


def _outcomes(records: Records) -> pd.DataFrame:
    """Return one row per enrollment that ended, with its course and the day it counts from."""
    sections = records.sections[["section_id", "course_id", "ends_on"]]
    ended = records.enrollments.dropna(subset="outcome").merge(sections, on="section_id")
    return ended.rename(columns={"ends_on": "visible_on"})[["course_id", "outcome", "visible_on"]]


def _estimates(scores: pd.DataFrame, outcomes: pd.DataFrame, day: date) -> pd.DataFrame:
    """Return the series (columns) of each course (index) from what counts on `day`."""
    import pandas as pd

    from grade_ml.external.two_way import difficulties

    cut = pd.Timestamp(day)
    seen = scores[scores["visible_on"] <= cut]
    # Weights of 0 throughout count equally.
    keys = ["course_id", "section_id", "student_id"]
    total = seen.groupby(keys, observed=True)["weight"].transform("sum")
    weight = seen["weight"].where(total > 0, 1.0)
    sums = (
        seen.assign(weight=weight, points=weight * seen["score"])
        .groupby(keys, observed=True)[["points", "weight"]]
        .sum()
    )
    grade = (sums["points"] / sums["weight"]).clip(0, 100)
    grades = grade.rename("grade").reset_index()
    by_course = grades.groupby("course_id", observed=True)["grade"]
    adjusted = difficulties(grades)
    known = outcomes[outcomes["visible_on"] <= cut]
    ended = known["outcome"].astype(str)
    by_outcome = {
        "pass_rate": ended.isin(_PASSED).groupby(known["course_id"]).mean(),
        "withdrawal_rate": ended.eq("withdrawn").groupby(known["course_id"]).mean(),
    }
    return pd.DataFrame(
        {
            "difficulty": adjusted["difficulty"],
            "difficulty_error": adjusted["error"],
            "mean_grade": by_course.mean(),
            "grade_spread": by_course.std(),
            **by_outcome,
        }
    ).sort_index()
