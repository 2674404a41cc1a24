"""Which loads a stored prediction knows, and whether any load made it out of date.

A load that changes one course leaves the predictions of all others as new as they were.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.features.origin import origin_of
from grade_ml.gradebook.catalog import Load
from grade_ml.gradebook.schema import load

if TYPE_CHECKING:
    from grade_ml.gradebook.attributes import Declarations

#: Predictions that are older than this many loads are computed again.
_MOST = 50


@dataclass(frozen=True)
class _Known:
    load: Load
    origin: str
    courses: frozenset[str]


class Loads:
    """The newest loads, newest first, as they are at one moment."""

    def __init__(self, known: tuple[_Known, ...]) -> None:
        self._known = known

    @property
    def loaded_at(self) -> datetime | None:
        """When the newest load came; None if nothing was ever loaded."""
        return self._known[0].load.loaded_at if self._known else None

    def is_newest(self, origin: str | None) -> bool:
        """Return whether what has this origin knows every load."""
        return origin is not None and bool(self._known) and self._known[0].origin == origin

    def are_known(self, origin: str | None, courses: Collection[str]) -> bool:
        """Return whether what has this origin knows every load that changed one of `courses`."""
        for known in self._known if origin else ():
            if known.origin == origin:
                return True
            if not known.courses.isdisjoint(courses):
                return False
        return False

    def version(self, course: str) -> str | None:
        """Return a text that changes whenever a course's records may have; None if unknown."""
        for known in self._known:
            if course in known.courses:
                return known.load.key
        return f"before {self._known[-1].load.key}" if self._known else None


class LoadLog:
    """Follows the gradebook's loads; safe to share between threads."""

    def __init__(self, declared: Declarations) -> None:
        self._declared = declared
        self._known: tuple[_Known, ...] = ()
        self._lock = Lock()

    def read(self, connection: Connection) -> Loads:
        """Return the loads as they are now; only those that are new are read."""
        with self._lock:
            known = self._known
        seen = known[0].load if known else None
        query = sa.select(load.c.id, load.c.loaded_at, load.c.source, load.c.courses)
        query = query.where(load.c.id >= (seen.id if seen else 0))
        rows = connection.execute(query.order_by(load.c.id.desc()).limit(_MOST)).all()
        loads = tuple(
            self._of(Load(row.id, row.loaded_at, row.source), row.courses) for row in rows
        )
        if seen and loads and loads[-1].load == seen:
            loads += known[1:]
        # Otherwise more than `_MOST` loads came since, or this is another database.
        loads = loads[:_MOST]
        with self._lock:
            self._known = loads
        return Loads(loads)

    def _of(self, load: Load, courses: Collection[str]) -> _Known:
        return _Known(load, origin_of(load.key, self._declared), frozenset(courses))
