"""What the gradebook holds, in a few keys: its courses and its newest load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core.errors import NotFoundError
from grade_ml.gradebook.schema import course, load, section

#: Courses that the error for an unknown course lists.
_NAMED = 20
#: Work that is due on the last day is a label 14 days later, and exams are graded until then.
LATE_SCORES = timedelta(days=30)


@dataclass(frozen=True)
class Load:
    """One load that changed the gradebook; `id` grows, `loaded_at` is timezone-aware."""

    id: int
    loaded_at: datetime
    source: str

    @property
    def key(self) -> str:
        """A text that no other load has, not even a load of a new database."""
        return f"load-{self.id}-{self.loaded_at:%Y%m%dT%H%M%S%f}"


def course_ids(connection: Connection) -> list[str]:
    """Return the ids of all courses, sorted."""
    return list(
        connection.execute(sa.select(course.c.course_id).order_by(course.c.course_id)).scalars()
    )


def require_courses(requested: Iterable[str], present: Sequence[str]) -> None:
    """Raise `NotFoundError` for the courses of `requested` that are not `present`."""
    if unknown := sorted(set(requested) - set(present)):
        named = ", ".join(present[:_NAMED]) + (", …" if len(present) > _NAMED else "")
        raise NotFoundError(f"There is no course {', '.join(unknown)}.", f"Known courses: {named}.")


def courses_changed_since(connection: Connection, seen: str | None) -> set[str] | None:
    """Return the courses that the loads after the load with the key `seen` changed.

    `None` means that all may have changed: there is no earlier load, or it is of another database.
    """
    rows = connection.execute(sa.select(load.c.id, load.c.loaded_at, load.c.source, load.c.courses))
    loads = [(Load(row.id, row.loaded_at, row.source), row.courses) for row in rows]
    answered = next((candidate.id for candidate, _ in loads if candidate.key == seen), None)
    if answered is None:
        return None
    return {name for newer, courses in loads if newer.id > answered for name in courses}


def newest_load(connection: Connection) -> Load | None:
    """Return the newest load, or None if nothing was ever loaded."""
    return _load(connection, load.c.id.desc())


def first_load(connection: Connection) -> Load | None:
    """Return the first load, or None if nothing was ever loaded."""
    return _load(connection, load.c.id)


def last_day_of_teaching(connection: Connection, as_of: date) -> date | None:
    """Return the newest day up to `as_of` on which a section runs or its late scores arrive.

    None where no section has begun.
    """
    begun = sa.select(sa.func.max(section.c.ends_on)).where(section.c.starts_on <= as_of)
    end: date | None = connection.execute(begun).scalar()
    return None if end is None else min(end + LATE_SCORES, as_of)


def first_day_of_teaching(connection: Connection) -> date | None:
    """Return the day on which the earliest section begins, `None` if there is no section."""
    earliest: date | None = connection.execute(sa.select(sa.func.min(section.c.starts_on))).scalar()
    return earliest


def _load(connection: Connection, order: sa.ColumnElement[int]) -> Load | None:
    row = connection.execute(
        sa.select(load.c.id, load.c.loaded_at, load.c.source).order_by(order).limit(1)
    ).one_or_none()
    return None if row is None else Load(row.id, row.loaded_at, row.source)
