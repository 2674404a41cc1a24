"""Rows that travel by COPY."""

from __future__ import annotations

import pandas as pd
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from grade_ml.core.database import copy_frame


def test_frames_of_which_the_first_part_is_empty_are_written_whole(engine: Engine) -> None:
    frame = pd.DataFrame({"course_id": pd.Series(["a", "b"], dtype="string[pyarrow]")})
    with engine.begin() as connection:
        copy_frame(connection, "gradebook.course", pd.concat([frame[:0], frame]))
        found = connection.execute(text("select course_id from gradebook.course")).scalars().all()

    assert found == ["a", "b"]


@pytest.mark.security
def test_errors_of_statements_do_not_repeat_records(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text("select 1 / (case when :name = 'Ada' then 0 end)"), {"name": "Ada"})
    assert "parameters hidden" in str(caught.value) and "{'name'" not in str(caught.value)
