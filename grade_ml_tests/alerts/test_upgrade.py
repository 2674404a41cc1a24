"""An installation whose alerts stood in the schema `monitoring`."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from grade_ml.alerts import conditions
from grade_ml.core import database
from grade_ml_tests.conftest import new_database


def test_open_and_past_alerts_stay_and_are_not_told_again(server):
    with new_database(server, "grade_ml_before_alerts", "template1") as url:
        engine = database.connect(url)
        migrations = Config()
        folder = Path(database.__file__).parent / "migrations"
        migrations.set_main_option("script_location", str(folder))
        with engine.begin() as connection:
            migrations.attributes["connection"] = connection
            command.upgrade(migrations, "0012")
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
            over = conditions.record(connection, wrong, lambda one: True, ["mail"], now)
        assert [one.title for one in over] == ["Recovered: health of maths"]
        engine.dispose()
