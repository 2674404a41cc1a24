"""What the gradebook holds, in a few keys: its courses and its newest load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core.errors import NotFoundError
from grade_ml.gradebook.schema import course, load

#: Courses that are named to whoever asked for one that does not exist.
_NAMED = 20


@dataclass(frozen=True)
class Load:
    """One load that changed the gradebook; `id` grows, `loaded_at` is timezone-aware."""

    id: int
    loaded_at: datetime
    source: str

    @property
    def key(self) -> str:
        """A text that no other load has, not even one of a database made anew."""
        return f"load-{self.id}-{self.loaded_at:%Y%m%dT%H%M%S%f}"


def course_ids(connection: Connection) -> list[str]:
    """Return the ids of all courses, sorted."""
    return list(
        connection.execute(sa.select(course.c.course_id).order_by(course.c.course_id)).scalars()
    )


def require_courses(wanted: Iterable[str], present: Sequence[str]) -> None:
    """Raise `NotFoundError` for the courses of `wanted` that are not `present`."""
    if unknown := sorted(set(wanted) - set(present)):
        some = ", ".join(present[:_NAMED]) + (", …" if len(present) > _NAMED else "")
        raise NotFoundError(f"There is no course {', '.join(unknown)}.", f"Known courses: {some}.")


def courses_changed_since(connection: Connection, seen: str | None) -> set[str] | None:
    """Return the courses that loads after the one with the key `seen` changed; None: all may be.

    None where nothing was answered yet, or where that load is not of this database.
    """
    rows = connection.execute(sa.select(load.c.id, load.c.loaded_at, load.c.source, load.c.courses))
    loads = [(Load(row.id, row.loaded_at, row.source), row.courses) for row in rows]
    answered = next((one.id for one, _ in loads if one.key == seen), None)
    if answered is None:
        return None
    return {name for one, courses in loads if one.id > answered for name in courses}


def newest_load(connection: Connection) -> Load | None:
    """Return the newest load, or None where nothing was ever loaded."""
    return _load(connection, load.c.id.desc())


def first_load(connection: Connection) -> Load | None:
    """Return the first load, or None where nothing was ever loaded."""
    return _load(connection, load.c.id)


def _load(connection: Connection, order: sa.ColumnElement[int]) -> Load | None:
    row = connection.execute(
        sa.select(load.c.id, load.c.loaded_at, load.c.source).order_by(order).limit(1)
    ).one_or_none()
    return None if row is None else Load(row.id, row.loaded_at, row.source)
