"""Rows that travel by COPY."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from grade_ml.core import database
from grade_ml.core.database import copy_frame, reachable, read_frame


def test_frames_of_which_the_first_part_is_empty_are_written_whole(engine: Engine) -> None:
    frame = pd.DataFrame({"course_id": pd.Series(["a", "b"], dtype="string[pyarrow]")})
    with engine.begin() as connection:
        copy_frame(connection, "gradebook.course", pd.concat([frame[:0], frame]))
        courses = connection.execute(text("select course_id from gradebook.course")).scalars().all()

    assert courses == ["a", "b"]


def test_the_newest_migration_is_the_head_of_alembic() -> None:
    """The name of its file alone decides whether a database is up to date."""
    folder = Path(database.__file__).parent / "migrations"
    assert ScriptDirectory(folder).get_heads() == [database.newest_revision()]


@pytest.mark.security
def test_errors_of_statements_do_not_repeat_records(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text("select 1 / (case when :name = 'Ada' then 0 end)"), {"name": "Ada"})
    assert "parameters hidden" in str(caught.value) and "{'name'" not in str(caught.value)


class Interruption(BaseException):
    """What Dagster raises at SIGINT and SIGTERM is no `Exception` and no `KeyboardInterrupt`."""


@pytest.mark.security
def test_an_interrupted_transfer_leaves_no_trace_and_no_broken_connection(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(*_: object) -> None:
        raise Interruption

    slow = sa.select(sa.cast(sa.func.pg_sleep(5), sa.Text).label("slept"))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with (
            caplog.at_level(logging.DEBUG),
            pytest.raises(Interruption),
            reachable(engine) as connection,
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            read_frame(connection, slow)
    finally:
        signal.signal(signal.SIGALRM, before)

    assert not [record for record in caplog.records if record.exc_info]
    with reachable(engine) as connection:
        assert connection.scalar(text("select 1")) == 1
