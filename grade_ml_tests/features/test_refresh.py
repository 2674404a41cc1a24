from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.campus import simulated
from grade_ml.core.frames import reasons, sound
from grade_ml.features.refresh import refresh, refresh_sequences
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.features.store import SEQUENCES, SNAPSHOTS, Frames
from grade_ml.features.validation import schema
from grade_ml.gradebook.attributes import declarations
from grade_ml.gradebook.institution import DEFAULTS, Institution
from grade_ml.gradebook.schema import load as load_table
from grade_ml_tests.ensemble.campus import redesigned, store
from grade_ml_tests.factories import PSEUDONYMS

TODAY = date(2025, 11, 10)


def test_a_course_does_not_depend_on_those_beside_it(engine: Engine, tmp_path: Path) -> None:
    config = simulated.CampusConfig(students=60, courses=3, terms=3, seed=3)
    campus = simulated.gradebook(config, TODAY)
    courses = campus.courses["course_id"].tolist()
    store(engine, redesigned(campus, courses[1]))
    together, alone = (
        Frames(str(tmp_path / name), TODAY, PSEUDONYMS) for name in ("together", "alone")
    )
    with engine.connect() as connection:
        counts = refresh(connection, together, courses)
        only = refresh(connection, alone, courses[1:2])
    assert only == {courses[1]: counts[courses[1]]}
    assert all(count.rows and not count.left_out for count in counts.values())
    pd.testing.assert_frame_equal(alone.snapshots(courses[1:2]), together.snapshots(courses[1:2]))
    assert [len(count.redesigned) for count in counts.values()] == [0, 1, 0]
    tomorrow = Frames(str(tmp_path / "together"), TODAY + timedelta(days=1), PSEUDONYMS)
    assert tomorrow.redesigned(courses) == counts[courses[1]].redesigned
    assert together.redesigned(["unknown"]) == {}


@pytest.mark.slow
def test_what_the_day_computed_from_the_same_records_stays(engine: Engine, tmp_path: Path) -> None:
    campus = simulated.gradebook(simulated.CampusConfig(students=30, courses=2, terms=2), TODAY)
    store(engine, campus)
    courses = sorted(campus.courses["course_id"])
    kinds = (SNAPSHOTS, SEQUENCES)

    def unchanged(day: date = TODAY, rules: Institution = DEFAULTS) -> list[bool]:
        frames, declared = Frames(str(tmp_path), day, PSEUDONYMS), declarations(rules)
        with engine.begin() as connection:
            refreshed = refresh(connection, frames, courses, declared)
            listed = refresh_sequences(connection, frames, courses, rules)
            plain = refresh(connection, Frames(str(tmp_path / "plain"), day, PSEUDONYMS), courses)
        rows = {name: count.rows for name, count in refreshed.items()}
        assert rows == {name: count.rows for name, count in plain.items()}
        assert rows == {name: len(frames.snapshots([name])) for name in courses}
        same = [
            {count.unchanged for count in counts_of_courses.values()}
            for counts_of_courses in (refreshed, listed)
        ]
        assert all(len(marks) == 1 for marks in same)
        return [True in marks for marks in same]

    def load() -> None:
        with engine.begin() as connection:
            connection.execute(
                sa.insert(load_table).values(
                    source="simulated",
                    loaded_at=datetime.now(UTC),
                    rows_loaded={},
                    rows_unchanged={},
                    rows_quarantined=0,
                    courses=courses[:1],
                )
            )

    # Rows that no load recorded may be any.
    assert unchanged() == unchanged() == [False, False]
    load()
    assert unchanged() == [False, False]
    files = {path: path.read_bytes() for path in (tmp_path / "features").rglob("*.parquet")}
    assert len(files) == len(courses) * len(kinds)
    assert unchanged() == [True, True]
    assert files == {path: path.read_bytes() for path in files}
    load()
    assert unchanged() == [False, False]
    assert unchanged() == [True, True]
    assert unchanged(TODAY + timedelta(days=1)) == [False, False]
    assert unchanged(rules=DEFAULTS.model_copy(update={"pass_mark": 50.0})) == [True, False]


def test_what_is_wrong_with_one_enrollment_is_left_out_alone() -> None:
    campus = simulated.gradebook(simulated.CampusConfig(students=40, courses=1, terms=2), TODAY)
    rows = grade_snapshots(campus, weekly_cuts(campus.sections, TODAY), TODAY)
    keys = ["section_id", "student_id"]
    for name, value in (("progress", -0.5), ("progress", 1.5), ("cut_day", -7.0)):
        odd = rows.copy()
        odd.loc[5, name] = value
        kept, left_out = sound(odd, schema())
        same = (odd[keys] == odd.loc[5, keys]).all(axis=1)
        pd.testing.assert_frame_equal(kept, odd[~same].reset_index(drop=True))
        assert list(reasons(left_out).values()) == [1]
        assert next(iter(reasons(left_out))).startswith(name)
    assert reasons(sound(rows, schema())[1]) == {}
