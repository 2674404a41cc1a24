"""An installation whose alerts were in the schema `monitoring`."""

from __future__ import annotations

import sqlalchemy as sa

from grade_ml.alerts import conditions
from grade_ml.core import database
from grade_ml_tests.conftest import database_of


def test_open_and_past_alerts_stay_and_are_not_sent_again(server):
    with database_of(server, "0012") as engine:
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    "insert into monitoring.alert values ('job night', now(), 'failed', null),"
                    "('job night', now() - interval '9 days', 'failed', now()),"
                    "('health of maths', now(), 'low', null)"
                )
            )
        database.migrate(engine)
        with engine.begin() as connection:
            count = sa.select(sa.func.count()).select_from(conditions.condition)
            assert connection.execute(count).scalar_one() == 3
            now = connection.execute(sa.text("select now()")).scalar_one()
            wrong = {"job night": "failed"}
            over = conditions.record(connection, wrong, lambda subject: True, ["mail"], now)
        assert [notice.title for notice in over] == ["Recovered: health of maths"]
