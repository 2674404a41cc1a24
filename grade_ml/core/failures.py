"""Which errors of the system and of PostgreSQL are conditions of the machine, and what to do then.

Any other error that is no `GradeMLError` is a defect and shows its traceback.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from grade_ml.core.errors import (
    ConfigurationError,
    GradeMLError,
    ServiceError,
    TransientError,
    UnavailableError,
)
from grade_ml.core.optional import of_import

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
#: SQLSTATEs of PostgreSQL: disk_full, io_error.
_DATABASE_FULL = ("53100", "58030")
#: With less than this left, a place is named as full where an error names none.
_LITTLE_BYTES = 1 << 20
_ROOM = "Free disk space there and run the command again; a load that failed has changed nothing."


def foreseen(error: BaseException, places: Iterable[Path]) -> GradeMLError | None:
    """Return the error that a user should read instead of a traceback, `None` for a defect.

    Errors that led to `error` count too. `places` are the folders that may be full: an error in
    the middle of writing names no file.
    """
    for cause in _causes(error):
        if isinstance(cause, GradeMLError):
            return cause
        if isinstance(cause, ImportError) and (lacking := of_import(cause)):
            return lacking
        if isinstance(cause, OSError) and (foreseen_error := _of_system(cause, places)):
            return foreseen_error
        if foreseen_error := _of_database(cause):
            return foreseen_error
    return None


#: What the clients of MLflow and of object storage raise if the server does not answer; by name,
#: so that nothing is imported for it. `core.http` has already retried its own requests.
_UNANSWERED = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.RetryError",
        "requests.exceptions.Timeout",
    }
)
#: SQLSTATEs of PostgreSQL after which the same transaction may succeed: serialization_failure,
#: deadlock_detected, too_many_connections.
_PASSING = ("40001", "40P01", "53300")


def is_transient(error: BaseException) -> bool:
    """Return whether `error` may pass by itself, so that doing the same again may succeed.

    Of errors that led to each other, the first that the program foresaw decides; a lost
    connection to PostgreSQL does so wherever it occurs.
    """
    from grade_ml.core.database import is_lost

    if is_lost(error):
        return True
    for cause in _causes(error):
        if isinstance(cause, GradeMLError):
            return isinstance(cause, TransientError)
        if isinstance(cause, ConnectionError | TimeoutError) or _state(cause) in _PASSING:
            return True
        kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(cause).__mro__}
        if kinds & _UNANSWERED:
            return True
    return False


def _state(error: BaseException) -> str | None:
    """Return the SQLSTATE that PostgreSQL gave with an error of a driver, or None."""
    state: str | None = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, None if cause.__suppress_context__ else cause.__context__]


def _of_system(error: OSError, places: Iterable[Path]) -> GradeMLError | None:
    path = None if error.filename is None else os.fsdecode(error.filename)
    if error.errno in _FULL:
        where = path or ", ".join(map(str, _full(places))) or "the output of this command"
        return ServiceError(f"Nothing more can be written to {where}: {error.strerror}.", _ROOM)
    if error.errno in _REFUSED and path:
        return ConfigurationError(
            f"{path} cannot be used: {error.strerror}.",
            "Correct its permissions, run as its owner, or set GRADE_ML_HOME (for Dagster's files "
            "DAGSTER_HOME, for models GRADE_ML_STORAGE) to a folder that can be written.",
        )
    return None


def _of_database(error: BaseException) -> GradeMLError | None:
    """Return the error for a full disk of PostgreSQL or for its absence, with its first line."""
    from sqlalchemy.exc import DBAPIError

    from grade_ml.core.database import is_lost

    if not isinstance(error, DBAPIError):
        return None
    message = str(error.orig).strip().partition("\n")[0]
    if error.orig and _state(error.orig) in _DATABASE_FULL:
        return ServiceError(f"PostgreSQL cannot write: {message}.", _ROOM)
    if is_lost(error):
        return UnavailableError(
            f"PostgreSQL does not answer: {message}.",
            "Its log gives the reason (that of the embedded server is `postgres/log` in "
            "GRADE_ML_HOME); a full disk is the usual cause.",
        )
    return None


def _full(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        existing = next((path for path in (place, *place.parents) if path.exists()), None)
        if existing and shutil.disk_usage(existing).free < _LITTLE_BYTES:
            yield place
