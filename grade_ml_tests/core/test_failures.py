"""What of a failure is told in words, and that defects keep their traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from grade_ml.core.errors import GradeMLError, NotFoundError
from grade_ml.core.failures import foreseen


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_path(number: int):
    told = foreseen(OSError(number, os.strerror(number), "/somewhere/file"), [])
    assert told
    assert "/somewhere/file" in told.message
    assert os.strerror(number) in told.message
    assert told.remedy


def test_where_no_path_is_named_the_full_places_are(tmp_path: Path):
    told = foreseen(OSError(errno.ENOSPC, "No space left"), [tmp_path, Path("/proc/not there")])
    assert told
    assert "/proc/not there" in told.message
    assert str(tmp_path) not in told.message


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_what_is_refused_names_the_path(number: int):
    told = foreseen(OSError(number, os.strerror(number), b"/somewhere/\xff"), [])
    assert told
    assert "/somewhere/" in told.message
    assert "GRADE_ML_HOME" in told.remedy


def test_what_led_to_an_error_counts():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left", "/somewhere")
        except OSError as cause:
            raise RuntimeError("cannot go on") from cause
    except RuntimeError as error:
        told = foreseen(error, [])
    assert told
    assert "/somewhere" in told.message
    known = NotFoundError("a", "b")
    assert foreseen(known, []) is known


@pytest.mark.parametrize(
    "defect",
    [
        ValueError("x"),
        KeyError("x"),
        OSError("x"),
        FileNotFoundError(errno.ENOENT, "No such file", "/somewhere"),
        PermissionError(errno.EPERM, "Operation not permitted"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    ],
)
def test_a_defect_keeps_its_traceback(defect: Exception):
    assert foreseen(defect, [Path("/")]) is None


def told_of(engine: Engine, statement: str) -> GradeMLError | None:
    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text(statement))
    return foreseen(caught.value, [])


@pytest.mark.parametrize("state", ["53100", "58030"])
def test_what_postgresql_cannot_write_is_told_without_the_statement(engine: Engine, state: str):
    told = told_of(
        engine,
        f"do $$ begin raise 'could not extend file' using errcode = '{state}'; end $$ -- a student",
    )
    assert told
    assert "could not extend file" in told.message
    assert "a student" not in str(told)


def test_the_end_of_postgresql_is_told(engine: Engine):
    told = told_of(engine, "select pg_terminate_backend(pg_backend_pid())")
    assert told
    assert "terminating connection" in told.message


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_server_that_is_not_there_is_told(tmp_path: Path, driver: str):
    engine = create_engine(f"postgresql+{driver}://me:secret@/x?host={tmp_path}")
    with pytest.raises(DBAPIError) as caught:
        engine.connect()
    told = foreseen(caught.value, [])
    assert told
    assert str(tmp_path) in told.message
    assert "secret" not in str(told)


def test_a_wrong_statement_is_a_defect(engine: Engine):
    assert told_of(engine, "select nothing from nowhere") is None
