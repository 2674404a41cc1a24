"""How many labels an experiment may expect, from what is due and what came before.

A label is an assignment that was due of a student. What a number of labels is worth is told in
`planning`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.experiments.coursework import SETTINGS as COURSEWORK
from grade_ml.experiments.settings import LIFECYCLE
from grade_ml.gradebook.schema import assignment, enrollment, result, section

_DUE = sa.func.coalesce(assignment.c.due_on, section.c.ends_on)
#: One row per enrolled student and assignment.
_PAIRS = (
    sa.join(section, enrollment, section.c.section_id == enrollment.c.section_id)
    .join(assignment, assignment.c.section_id == section.c.section_id)
    .outerjoin(
        result,
        sa.and_(
            result.c.assignment_id == assignment.c.assignment_id,
            result.c.student_id == enrollment.c.student_id,
            result.c.score.is_not(None),
        ),
    )
)
#: The source does not always say when it marked; then the score is dated as early as it can be.
_SCORED = sa.func.coalesce(result.c.graded_on, result.c.submitted_on, _DUE)


@dataclass(frozen=True)
class Expected:
    """How many labels come until which day."""

    labels: int
    until: date


def expected(
    connection: Connection, courses: Collection[str], as_of: date, days: int
) -> Expected | None:
    """Return how many scores of `courses` (none: of all) will come; None: none that is known of.

    Counted is what is due within `days` after the first due day; where due dates are not known so
    far ahead, what has been coming lately in the sections that run.
    """
    due = _due(connection, courses, as_of)
    if len(due):
        due = due[due["due"] < due["due"].iloc[0] + pd.Timedelta(days=days)]
        until = due["due"].iloc[-1].date() + timedelta(days=COURSEWORK.settled)
        return Expected(int(due["pairs"].sum()), until)
    weeks = labels_by_week(connection, courses, as_of, LIFECYCLE.recent // 7)
    end = min(_last_day(connection, courses, as_of) or as_of, as_of + timedelta(days=days))
    usual = round(weeks.mean() * (end - as_of).days / 7)
    return Expected(usual, end + timedelta(days=COURSEWORK.settled)) if usual else None


def labels_by_week(
    connection: Connection, courses: Collection[str], as_of: date, weeks: int
) -> pd.Series:
    """Return how many scores arrived in each of the last weeks up to `as_of`, oldest first.

    The index holds the last day of each week; a week without scores counts 0.
    """
    since = as_of - timedelta(weeks=weeks)
    query = (
        sa.select(_SCORED.label("day"), sa.func.count().label("scores"))
        .select_from(_PAIRS)
        .where(_is_known(as_of), since < _SCORED, *_of(courses))
        .group_by(_SCORED)
    )
    ends = pd.date_range(end=pd.Timestamp(as_of), periods=weeks, freq="7D")
    found = {end: 0 for end in ends}
    for row in connection.execute(query):
        found[ends[-1 - (as_of - row.day).days // 7]] += row.scores
    return pd.Series(found, dtype="int64")


def _due(connection: Connection, courses: Collection[str], as_of: date) -> pd.DataFrame:
    """Return pairs of student and assignment by due day (columns due, pairs), the first first."""
    query = (
        sa.select(_DUE.label("due"), sa.func.count().label("pairs"))
        .select_from(_PAIRS)
        .where(
            as_of < _DUE,
            as_of + timedelta(days=LIFECYCLE.horizon) >= _DUE,
            ~_is_known(as_of),
            *_counts(as_of),
            *_of(courses),
        )
        .group_by(_DUE)
        .order_by(_DUE)
    )
    rows = [(pd.Timestamp(row.due), row.pairs) for row in connection.execute(query)]
    return pd.DataFrame(rows, columns=["due", "pairs"])


def _last_day(connection: Connection, courses: Collection[str], as_of: date) -> date | None:
    query = sa.select(sa.func.max(section.c.ends_on)).where(section.c.starts_on <= as_of)
    day: date | None = connection.execute(query.where(*_of(courses))).scalar()
    return day


def _is_known(as_of: date) -> sa.ColumnElement[bool]:
    """Whether a pair has a score that had arrived by `as_of`; nothing later is read."""
    return sa.and_(result.c.score.is_not(None), as_of >= _SCORED)


def _counts(as_of: date) -> list[sa.ColumnElement[bool]]:
    left = enrollment.c.withdrawn_on
    return [~assignment.c.extra_credit, sa.or_(left.is_(None), left > as_of)]


def _of(courses: Collection[str]) -> list[sa.ColumnElement[bool]]:
    return [section.c.course_id.in_(sorted(courses))] if courses else []
