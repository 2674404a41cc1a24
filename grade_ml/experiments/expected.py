"""How many labels an experiment may expect, from due dates and earlier arrivals.

A label is an assignment that was due of a student. `planning` computes which effect they detect.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.experiments.coursework import SETTINGS as COURSEWORK
from grade_ml.experiments.plan import Metric, Plan
from grade_ml.experiments.planning import Design, duration, effect_for, students_for
from grade_ml.experiments.population import enrolled
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
#: Not every source records when it marked; then the score is dated as early as possible.
_SCORED = sa.func.coalesce(result.c.graded_on, result.c.submitted_on, _DUE)


@dataclass(frozen=True)
class Expected:
    """How many labels arrive by which day."""

    labels: int
    until: date


def expected(  # noqa: PLR0913, PLR0917
    connection: Connection,
    courses: Collection[str],
    as_of: date,
    days: int,
    first: date | None = None,
    last: date | None = None,
) -> Expected | None:
    """Return how many scores of `courses` (none: of all) will arrive; `None` if none is known.

    Counts what is due within `days` after the first due day; if due dates are not known so far
    ahead, extrapolates the recent arrivals of the running sections.

    Parameters
    ----------
    first, last
        Only what is due after `first` and has settled by `last` counts; `None`: `as_of`, any day.
    """
    first = max(first or as_of, as_of)
    latest = (last or date.max) - timedelta(days=COURSEWORK.settled)
    due = _due(connection, courses, as_of)
    if len(due):
        due = due[due["due"] > pd.Timestamp(first)]
        due = due[due["due"] < due["due"].min() + pd.Timedelta(days=days)]
        due = due[due["due"].dt.date <= latest]
        if not len(due):
            return None
        until = due["due"].iloc[-1].date() + timedelta(days=COURSEWORK.settled)
        return Expected(int(due["pairs"].sum()), until)
    weeks = labels_by_week(connection, courses, as_of, LIFECYCLE.recent // 7)
    end = min(_last_day(connection, courses, as_of) or as_of, as_of + timedelta(days=days), latest)
    usual = round(weeks.mean() * (end - first).days / 7)
    return Expected(usual, end + timedelta(days=COURSEWORK.settled)) if usual > 0 else None


def outlook(connection: Connection, plan: Plan, as_of: date) -> str:
    """Return a sentence on the effect that the planned labels detect and the time they take.

    If the plan has a smallest effect of a known unit: how many students detect it.
    """
    if plan.planned_labels is None:
        return (
            "The number of future labels is unknown: the test has no planned end, and takes longer."
        )
    students = enrolled(connection, plan.courses, as_of)["student_id"].nunique()
    if students < len(plan.arms):
        return f"{students} students are enrolled now, too few to plan with."
    design = Design(
        plan.alpha,
        plan.power,
        correlation=LIFECYCLE.alike_losses if plan.kind.compares_models else None,
        labels_per_student=max(plan.planned_labels / students, 1.0),
        share=plan.treatments[0].share if not plan.kind.compares_models else 0.5,
    )
    weeks = labels_by_week(connection, plan.courses, as_of, LIFECYCLE.horizon // 7)
    spread = _spread(connection, plan, as_of)
    if plan.minimum_effect and spread:
        size = students_for(plan.minimum_effect / spread, design)
    else:
        size = effect_for(students, design)
    # Before the first score there was nothing to count.
    return duration(weeks[weeks.cumsum() > 0], size).text


def _spread(connection: Connection, plan: Plan, as_of: date) -> float | None:
    """Return the standard deviation of a label of the metric; `None` if it is unknown."""
    if plan.metric in (Metric.SUBMITTED, Metric.PASSED):
        return 0.5  # the largest that a share can have
    if plan.metric is not Metric.SCORE:
        return None
    points = sa.case((_is_known(as_of), result.c.score), else_=0.0)
    query = sa.select(sa.func.stddev_samp(points), sa.func.count()).select_from(_PAIRS)
    spread, pairs = connection.execute(query.where(*_was_due(as_of), *_of(plan.courses))).one()
    return float(spread) if pairs >= LIFECYCLE.least_pairs else None


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
    counts = {end: 0 for end in ends}
    for row in connection.execute(query):
        counts[ends[-1 - (as_of - row.day).days // 7]] += row.scores
    return pd.Series(counts, dtype="int64")


def _due(connection: Connection, courses: Collection[str], as_of: date) -> pd.DataFrame:
    """Return pairs of student and assignment by due day (due, pairs), the earliest first."""
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


def _was_due(as_of: date) -> list[sa.ColumnElement[bool]]:
    """Whether a pair was due recently enough to predict the next, but is settled."""
    last = as_of - timedelta(days=COURSEWORK.settled)
    return [_DUE.between(as_of - timedelta(days=LIFECYCLE.horizon), last), *_counts(as_of)]


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
