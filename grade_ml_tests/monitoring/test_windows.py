"""Which rows of a course are compared with which."""

from dataclasses import replace
from datetime import UTC, date, datetime
from types import SimpleNamespace

import pandas as pd

from grade_ml.gradebook.catalog import Load
from grade_ml.monitoring.courses import Course
from grade_ml.monitoring.drift import comparing, judged, usual
from grade_ml.monitoring.windows import Windows, windows

FEATURES = ("score", "progress")


def sections(starts: dict[str, str], days: int = 238) -> pd.DataFrame:
    began = pd.to_datetime(pd.Series(starts))
    return pd.DataFrame(
        {
            "section_id": list(starts),
            "course_id": "c",
            "starts_on": began.to_numpy(),
            "ends_on": (began + pd.Timedelta(days=days)).to_numpy(),
        }
    )


def weekly(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a snapshot of ten students in every week of each section."""
    parts = [
        pd.DataFrame(
            {
                "section_id": section.section_id,
                "student_id": [f"{section.section_id}-{number}" for number in range(10)],
                "course_id": "c",
                "cut_on": section.starts_on + pd.Timedelta(days=7 * week),
                "progress": 7 * week / 238,
                "teacher": float(place),
                "score": [float(week + number) for number in range(10)],
            }
        )
        for place, section in enumerate(rows.itertuples())
        for week in range(35)
    ]
    return pd.concat(parts, ignore_index=True)


def course(as_of: date, features: tuple[str, ...] = FEATURES) -> Course:
    known = sections({"old": "2024-02-05", "last": "2024-08-05", "new": "2025-02-03"})
    running = known[known["ends_on"] >= pd.Timestamp(as_of)]
    begun = known[known["starts_on"] <= pd.Timestamp(as_of)]
    lengths = begun.set_index("section_id")
    nothing = pd.DataFrame({"section_id": [], "on": pd.Series(dtype="datetime64[ns]")})
    records = SimpleNamespace(
        as_of=as_of,
        sections=begun,
        running=running[running["starts_on"] <= pd.Timestamp(as_of)],
        days=(lengths["ends_on"] - lengths["starts_on"]).dt.days,
        predictions=nothing.assign(progress=0.0, grade=0.0, risk=0.0),
        delays=pd.DataFrame({"section_id": [], "days": pd.Series(dtype="float64")}),
        load=Load(1, datetime(2025, 2, 3, tzinfo=UTC), "csv"),
    )
    champion = SimpleNamespace(
        name="pooled 1",
        features=features,
        sections=frozenset({"old", "last"}),
        held_out=pd.DataFrame(),
        degraded=(),
    )
    return Course("c", champion, records, weekly(known))


def compared(as_of: date) -> Windows:
    campus = course(as_of)
    return windows(campus.snapshots, campus.champion, campus.records)


def test_where_terms_overlap_the_newest_sections_are_compared_in_their_own_week():
    """The last term still runs, in its 31st week; the new term is in its fifth."""
    comparison = compared(date(2025, 3, 10))
    assert set(comparison.features.current_sections) == {"new"}
    assert set(comparison.features.reference_sections) == {"old"}
    assert (
        comparison.features.current["score"].min()
        == comparison.features.reference["score"].min()
        == 5
    )


def test_a_term_that_has_ended_becomes_a_reference():
    comparison = compared(date(2025, 5, 12))
    assert set(comparison.features.current_sections) == {"new"}
    assert set(comparison.features.reference_sections) == {"old", "last"}
    assert len(comparison.features.reference) == 20
    assert comparison.cut_on == date(2025, 5, 12)


def test_where_every_feature_is_the_same_for_a_class_drift_is_unknown():
    """So it is in classes of one student."""
    same = replace(course(date(2025, 5, 12), features=("teacher",)), redesigned=("new: other",))
    alike = comparing(same)
    report = judged(alike, usual([alike]), seed=0)
    assert report.status == "not tested" and report.reason and not report.drifted
    assert report.quality.tested and report.quality.violations == ()
    assert report.redesigned == ("new: other",)
