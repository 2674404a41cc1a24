"""An installation whose trainings stored the known change in the text of their data."""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa

from grade_ml.core import database
from grade_ml.training.course import changed_since, course_training
from grade_ml_tests.conftest import database_of


def test_the_recorded_change_of_a_course_is_retained(server):
    with database_of(server, "0016") as engine:
        with engine.begin() as connection:
            insert = (
                "insert into ensemble.course_training values (:name, :data, 'c', true, '', now())"
            )
            data = {"A": "3-abc@2025-10-13-0.18", "B": "3-abc@2025-10-13+0.05", "C": "3-abc"}
            for name, text in data.items():
                connection.execute(sa.text(insert), {"name": name, "data": text})
        database.migrate(engine)
        with engine.connect() as connection:
            assert changed_since(connection) == dict.fromkeys("AB", date(2025, 10, 13))
            rows = connection.execute(sa.select(course_training)).all()
    assert {row.course_id: row.changed_share for row in rows} == {"A": -0.18, "B": 0.05, "C": None}
    assert {row.data_version for row in rows} == {"3-abc"}
