"""Which failures are described in words, and that defects keep their traceback."""

from __future__ import annotations

import errno
import importlib
import os
import socket
import sys
from pathlib import Path

import psycopg
import pytest
import requests
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from grade_ml.core.errors import (
    ArtifactError,
    ConfigurationError,
    GradeMLError,
    NotFoundError,
    OutOfMemoryError,
    ServiceError,
    SourceError,
    UnavailableError,
)
from grade_ml.core.failures import foreseen, is_transient


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_path(number: int):
    shown = foreseen(OSError(number, os.strerror(number), "/somewhere/file"), [])
    assert shown
    assert "/somewhere/file" in shown.message
    assert os.strerror(number) in shown.message
    assert shown.remedy


def test_where_no_path_is_named_the_full_places_are(tmp_path: Path):
    error = foreseen(OSError(errno.ENOSPC, "No space left"), [tmp_path, Path("/proc/not there")])
    assert error
    assert "/proc/not there" in error.message
    assert str(tmp_path) not in error.message


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_what_is_refused_names_the_path(number: int):
    error = foreseen(OSError(number, os.strerror(number), b"/somewhere/\xff"), [])
    assert error
    assert "/somewhere/" in error.message
    assert "GRADE_ML_HOME" in error.remedy


def test_what_led_to_an_error_counts():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left", "/somewhere")
        except OSError as cause:
            raise RuntimeError("cannot go on") from cause
    except RuntimeError as error:
        reported = foreseen(error, [])
    assert reported
    assert "/somewhere" in reported.message
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


def failure_of(engine: Engine, statement: str) -> GradeMLError | None:
    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text(statement))
    return foreseen(caught.value, [])


@pytest.mark.parametrize("state", ["53100", "58030"])
def test_a_failed_write_of_postgresql_is_reported_without_the_statement(engine: Engine, state: str):
    error = failure_of(
        engine,
        f"do $$ begin raise 'could not extend file' using errcode = '{state}'; end $$ -- a student",
    )
    assert error
    assert "could not extend file" in error.message
    assert "a student" not in str(error)


def test_the_end_of_postgresql_is_reported(engine: Engine):
    error = failure_of(engine, "select pg_terminate_backend(pg_backend_pid())")
    assert error
    assert "terminating connection" in error.message


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_missing_server_is_reported(tmp_path: Path, driver: str):
    engine = create_engine(f"postgresql+{driver}://me:secret@/x?host={tmp_path}")
    with pytest.raises(DBAPIError) as caught:
        engine.connect()
    error = foreseen(caught.value, [])
    assert error
    assert str(tmp_path) in error.message
    assert "secret" not in str(error)


def test_a_wrong_statement_is_a_defect(engine: Engine):
    assert failure_of(engine, "select nothing from nowhere") is None


def test_a_missing_library_is_reported_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    def importing(name: str) -> GradeMLError | None:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError) as caught:
            importlib.import_module(name)
        return foreseen(raised(RuntimeError(), caught.value), [])

    optional, ours, defect = map(importing, ("prophet", "pandas.io", "grade_ml.core.nowhere"))
    assert optional and "pip install 'grade-ml[prophet]'" in optional.remedy
    assert ours and "pandas is not installed" in ours.message and "again" in ours.remedy
    assert defect is None


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    """Return an error as it is caught, after the error that led to it."""
    try:
        raise error from cause
    except Exception as caught:
        return caught


class OfStorage(Exception):
    """Has the name of what S3's driver raises, which is not among the tests' libraries."""


OfStorage.__module__, OfStorage.__qualname__ = "botocore.exceptions", "ConnectionError"


def refused_by_requests() -> Exception:
    with socket.socket() as bound, pytest.raises(requests.ConnectionError) as caught:
        bound.bind(("127.0.0.1", 0))  # and no process listens
        requests.get(f"http://127.0.0.1:{bound.getsockname()[1]}", timeout=5)
    return caught.value


def without_an_answer() -> Exception:
    """What MLflow makes of a server that does not answer: its own error, while handling another."""
    try:
        try:
            raise refused_by_requests()
        except requests.ConnectionError as error:
            raise RuntimeError(f"API request failed with exception {error}")  # noqa: B904
    except RuntimeError as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("The database does not answer."),
        raised(RuntimeError("it failed"), UnavailableError("The database went away.")),
        psycopg.OperationalError("server closed the connection unexpectedly"),
        raised(ArtifactError("unreadable"), psycopg.OperationalError("connection lost")),
        psycopg.errors.DeadlockDetected("deadlock detected"),
        psycopg.errors.SerializationFailure("could not serialize"),
        psycopg.errors.TooManyConnections("sorry, too many clients already"),
        ConnectionResetError("reset by peer"),
        TimeoutError("timed out"),
        refused_by_requests(),
        without_an_answer(),
        OfStorage("Could not connect to the endpoint URL"),
    ],
    ids=lambda error: f"{type(error).__name__} after {type(error.__cause__).__name__}",
)
def test_what_may_pass_is_transient(error: Exception):
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("A setting cannot be used."),
        raised(ServiceError("The server refuses."), ConnectionResetError("reset by peer")),
        raised(SourceError("A file cannot be read."), TimeoutError("timed out")),
        OutOfMemoryError("It was stopped."),
        psycopg.errors.UniqueViolation("duplicate key"),
        psycopg.errors.DiskFull("no space left"),
        FileNotFoundError("no such file"),
        ValueError("wrong"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_else_fails_is_permanent(error: Exception):
    assert not is_transient(error)
