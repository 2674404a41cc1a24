from __future__ import annotations

from datetime import date
from pathlib import Path

import pandas as pd
from sqlalchemy import Engine

from grade_ml.features.refresh import refresh
from grade_ml.features.store import read_snapshots
from grade_ml.gradebook import simulated
from grade_ml_tests.ensemble.campus import store

TODAY = date(2025, 11, 10)


def test_a_course_does_not_depend_on_those_beside_it(engine: Engine, tmp_path: Path) -> None:
    config = simulated.CampusConfig(students=60, courses=3, terms=3, seed=3)
    campus = simulated.gradebook(config, TODAY)
    store(engine, campus)
    courses = campus.courses["course_id"].tolist()
    together, alone = str(tmp_path / "together"), str(tmp_path / "alone")
    with engine.connect() as connection:
        counts = refresh(connection, together, courses, TODAY)
        only = refresh(connection, alone, courses[1:2], TODAY)
    assert only == {courses[1]: counts[courses[1]]}
    assert min(counts.values()) > 0
    pd.testing.assert_frame_equal(
        read_snapshots(alone, courses[1:2]), read_snapshots(together, courses[1:2])
    )
