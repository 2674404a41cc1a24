"""Which errors of the system and of PostgreSQL are conditions of the machine, and what to do then.

Everything else that is no `GradeMLError` is a defect, and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from grade_ml.core.errors import ConfigurationError, GradeMLError, ServiceError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
#: SQLSTATEs of PostgreSQL: disk_full, io_error.
_DATABASE_FULL = ("53100", "58030")
#: With less than this left, a place is named as full where an error names none.
_LITTLE_BYTES = 1 << 20
_ROOM = "Make room there, and run the command again; a load that failed has changed nothing."


def foreseen(error: BaseException, places: Iterable[Path]) -> GradeMLError | None:
    """Return what a person should read instead of a traceback, or None: then it is a defect.

    Errors that led to `error` count too. `places` are the folders that may be full: an error in
    the middle of writing names no file.
    """
    for one in _causes(error):
        if isinstance(one, GradeMLError):
            return one
        if isinstance(one, OSError) and (told := _of_system(one, places)):
            return told
        if told := _of_database(one):
            return told
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, None if one.__suppress_context__ else one.__context__]


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
    """Return a full disk of PostgreSQL, or its absence, in the first line of its own words."""
    from sqlalchemy.exc import DBAPIError

    from grade_ml.core.database import is_lost

    if not isinstance(error, DBAPIError):
        return None
    said = str(error.orig).strip().partition("\n")[0]
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    if state in _DATABASE_FULL:
        return ServiceError(f"PostgreSQL cannot write: {said}.", _ROOM)
    if is_lost(error):
        return ServiceError(
            f"PostgreSQL does not answer: {said}.",
            "Its log says why (of the embedded one, `postgres/log` in GRADE_ML_HOME); a full disk "
            "is the usual cause.",
        )
    return None


def _full(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        there = next((path for path in (place, *place.parents) if path.exists()), None)
        if there and shutil.disk_usage(there).free < _LITTLE_BYTES:
            yield place
