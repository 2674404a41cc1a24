"""Which rows of a course are compared with which."""

from datetime import date
from types import SimpleNamespace

import pandas as pd

from grade_ml.monitoring.windows import windows

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
                "section_id": one.section_id,
                "student_id": [f"{one.section_id}-{number}" for number in range(10)],
                "course_id": "c",
                "cut_on": one.starts_on + pd.Timedelta(days=7 * week),
                "progress": 7 * week / 238,
                "score": [float(week + number) for number in range(10)],
            }
        )
        for one in rows.itertuples()
        for week in range(35)
    ]
    return pd.concat(parts, ignore_index=True)


def compared(as_of: date):
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
    )
    champion = SimpleNamespace(
        name="pooled 1",
        features=FEATURES,
        sections=frozenset({"old", "last"}),
        held_out=pd.DataFrame(),
    )
    return windows(weekly(known), champion, records)


def test_where_terms_overlap_the_newest_sections_are_compared_in_their_own_week():
    """The last term still runs, in its 31st week; the new one is in its fifth."""
    found = compared(date(2025, 3, 10))
    assert set(found.features.current_sections) == {"new"}
    assert set(found.features.reference_sections) == {"old"}
    assert found.features.current["score"].min() == found.features.reference["score"].min() == 5


def test_a_term_that_has_ended_becomes_a_reference():
    found = compared(date(2025, 5, 12))
    assert set(found.features.current_sections) == {"new"}
    assert set(found.features.reference_sections) == {"old", "last"}
    assert len(found.features.reference) == 20
    assert found.cut_on == date(2025, 5, 12)
