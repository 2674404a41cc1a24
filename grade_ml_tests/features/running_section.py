"""A section of four students after three of five assignments."""

from __future__ import annotations

from datetime import date

import pandas as pd

from grade_ml.features.snapshots import grade_snapshots
from grade_ml.gradebook.frames import Gradebook
from grade_ml_tests.features.records import (
    START,
    day,
    enrolled,
    gradebook,
    result,
    section,
    students,
    work,
)

NAMES = ("ann", "bob", "cat", "dan")
DUE = {"w1": 10, "w2": 20, "w3": 30, "w4": 50, "w5": 70}
TODAY = 35


def on(number: float) -> date:
    return (START + pd.Timedelta(days=number)).date()


def book(*results: dict[str, object], more_activity: tuple[tuple[str, int], ...] = ()) -> Gradebook:
    """Bob stopped after the first assignment, Dan left; Ann and Cat handed in all three."""
    known = [
        result("ann", "w1", 80, 8, 12),
        result("ann", "w2", 60, 22, 24),
        result("ann", "w3", 70, 30, 33),
        result("bob", "w1", 40, 10, 10),
        result("cat", "w1", 90, 9, 12),
        result("cat", "w2", 95, 19, 24),
        result("cat", "w3", 85, 29, 33),
        result("dan", "w1", 10, 9, 12),
    ]
    daily = [(name, d) for name in ("ann", "cat") for d in range(0, TODAY + 1, 7)]
    return gradebook(
        students=students(*NAMES, ann='{"region": "north"}'),
        courses=[{"course_id": "math"}],
        sections=[section("now", 0, 90)],
        enrollments=[
            *(enrolled(name) for name in NAMES[:3]),
            enrolled("dan", withdrawn_on=day(15)),
        ],
        assignments=[work(name, due, 20) for name, due in DUE.items()],
        results=[*known, *results],
        activity=[
            {
                "section_id": "now",
                "student_id": name,
                "day": day(d),
                "kind": "forum",
                "count": 3,
            }
            for name, d in (*daily, *more_activity)
        ],
    )


def snapshot(records: Gradebook, cut: float, student: str = "ann") -> pd.DataFrame:
    cuts = pd.DataFrame({"section_id": ["now"], "cut_day": [float(cut)]})
    rows = grade_snapshots(records, cuts, on(90))
    return rows[rows["student_id"].astype(str) == student].reset_index(drop=True)
