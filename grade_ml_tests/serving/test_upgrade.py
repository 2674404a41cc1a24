"""An installation whose stored predictions did not state which records they know."""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa

from grade_ml.core import database
from grade_ml.serving.predictions import grade_prediction
from grade_ml_tests.conftest import database_of


def test_what_was_predicted_is_kept_and_of_unknown_origin(server):
    with database_of(server, "0020") as engine:
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    "insert into ensemble.grade_prediction "
                    "(section_id, student_id, as_of, model_name, model_version, grade, risk) "
                    "values ('A', 's', '2026-03-01', 'pooled', 3, 61.5, 0.25)"
                )
            )
        database.migrate(engine)
        with engine.connect() as connection:
            (row,) = connection.execute(sa.select(grade_prediction)).all()
    assert (row.as_of, row.grade, row.risk) == (date(2026, 3, 1), 61.5, 0.25)
    assert row.origin is row.naive is None
