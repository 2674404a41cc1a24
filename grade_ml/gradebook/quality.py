"""Describes the gradebook's tables in figures: profiles, rules and their violations.

Everything is counted by the database; no row leaves it. The rules follow from `schema` (keys,
references, ranges) and from what a sensible record looks like (dates in order, no duplicates). What
is done about a violation is decided by the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select, Table

from grade_ml.gradebook import schema
from grade_ml.gradebook.schema import (
    activity,
    assignment,
    course,
    enrollment,
    load,
    quarantine,
    result,
    section,
    term,
)

#: Two weeks without a load while sections are running: longer than any reading week, shorter than
#: the time in which a student falls hopelessly behind.
MAX_LOAD_AGE_DAYS = 14

#: The table to which the rows of a source file belong, by the file's name without its ending.
TABLE_OF_FILE = {
    **{f"{table.name}s": table.name for table in schema.TABLES},
    "activity": "activity",
    "academicsessions": "term",
    "classes": "section",
    "users": "student",
    "demographics": "student",
    "categories": "assignment",
    "lineitems": "assignment",
    "assessments": "assignment",
    "studentinfo": "enrollment",
    "studentregistration": "enrollment",
    "studentassessment": "result",
    "studentvle": "activity",
}


@dataclass(frozen=True)
class Profile:
    """The figures of one table.

    `null_shares` gives, for each column that may be null, the share of rows (0-1) where it is.
    `newest` is the latest date in the table. `version` changes when a load changed the table.
    """

    rows: int
    null_shares: dict[str, float]
    newest: date | None
    quarantined: int
    version: str


def profile(connection: Connection, table: Table) -> Profile:
    """Return the figures of `table`, one of `schema.TABLES`, in one scan of it."""
    nullable = [column for column in table.columns if column.nullable]
    dates = [column for column in table.columns if isinstance(column.type, sa.Date)]
    latest: ColumnElement[Any] = (
        sa.func.greatest(*(sa.func.max(column) for column in dates)) if dates else sa.null()
    )
    query = sa.select(
        sa.func.count(),
        latest,
        *(sa.func.count().filter(column.is_(None)) for column in nullable),
    ).select_from(table)
    rows, newest, *nulls = connection.execute(query).one()
    return Profile(
        rows=rows,
        null_shares={
            column.name: missing / max(rows, 1)
            for column, missing in zip(nullable, nulls, strict=True)
        },
        newest=newest,
        quarantined=sum(quarantined(connection, table).values()),
        version=f"{rows}-{_last_load(connection, table)}",
    )


def _last_load(connection: Connection, table: Table) -> int:
    touched = sa.cast(load.c.rows_loaded[table.name].astext, sa.BigInteger) > 0
    query = sa.select(sa.func.coalesce(sa.func.max(load.c.id), 0)).where(touched)
    return int(connection.execute(query).scalar_one())


def quarantined(connection: Connection, table: Table) -> dict[str, int]:
    """Return the number of quarantined rows of `table` by reason, most frequent first."""
    stem = sa.func.lower(sa.func.regexp_replace(quarantine.c.file, r"^.*/|\.csv(\.gz)?$", "", "gi"))
    files = [file for file, name in TABLE_OF_FILE.items() if name == table.name]
    rows = connection.execute(
        sa.select(quarantine.c.reason, sa.func.count())
        .where(stem.in_(files))
        .group_by(quarantine.c.reason)
        .order_by(sa.func.count().desc(), quarantine.c.reason)
    )
    return {reason: count for reason, count in rows}


@dataclass(frozen=True)
class Rule:
    """A promise about one table.

    `violations` selects the number of rows that break it. `serious` means that nothing may be
    computed from a table that breaks it; otherwise the rows are odd but usable.
    """

    table: Table
    name: str
    description: str
    violations: Select[int]
    serious: bool


def rules(table: Table) -> list[Rule]:
    """Return the rules of `table`, one of `schema.TABLES`."""
    return [*_keys(table), *_references(table), *_constraints(table), *_oddities(table)]


def violations(connection: Connection, rule: Rule) -> int:
    """Return the number of rows that break `rule`."""
    return int(connection.execute(rule.violations).scalar_one())


def _rows(*conditions: ColumnElement[bool], of: sa.FromClause) -> Select[int]:
    return sa.select(sa.func.count()).select_from(of).where(*conditions)


def _repeated(columns: Sequence[ColumnElement[Any]], of: sa.FromClause) -> Select[int]:
    """Count the rows beyond the first of each group with the same, known values."""
    known = [column.is_not(None) for column in columns]
    groups = (
        sa.select((sa.func.count() - 1).label("more"))
        .select_from(of)
        .where(*known)
        .group_by(*columns)
        .having(sa.func.count() > 1)
        .subquery()
    )
    return sa.select(sa.cast(sa.func.coalesce(sa.func.sum(groups.c.more), 0), sa.BigInteger))


def _keys(table: Table) -> Iterator[Rule]:
    keys = list(table.primary_key.columns)
    names = ", ".join(column.name for column in keys)
    yield Rule(
        table, "keys", f"No two rows share their key ({names}).", _repeated(keys, table), True
    )


def _references(table: Table) -> Iterator[Rule]:
    missing = []
    for column in table.columns:
        for key in column.foreign_keys:
            target = key.column.table.alias()
            missing.append(~sa.exists().where(target.c[key.column.name] == column).correlate(table))
    if missing:
        yield Rule(
            table,
            "orphans",
            "Every row refers to a row that exists.",
            _rows(sa.or_(*missing), of=table),
            True,
        )


def _constraints(table: Table) -> Iterator[Rule]:
    """Make one rule of the value ranges and one of the date order in the schema."""
    groups: dict[str, list[sa.TextClause]] = {"ranges": [], "dates_in_order": []}
    for constraint in sorted(table.constraints, key=lambda constraint: str(constraint.name)):
        if isinstance(constraint, sa.CheckConstraint):
            kind = "dates_in_order" if "dates" in str(constraint.name) else "ranges"
            groups[kind].append(sa.text(f"not ({constraint.sqltext})"))
    for name, broken in groups.items():
        if broken:
            allowed = "; ".join(str(clause)[5:-1] for clause in broken)
            condition = sa.or_(*(sa.literal_column(f"({clause})") for clause in broken))
            yield Rule(table, name, f"Every row has: {allowed}.", _rows(condition, of=table), True)


def _oddities(table: Table) -> Iterator[Rule]:
    """Make the rules that the schema does not hold."""
    for name, description, query in _ODD.get(table.name, ()):
        yield Rule(table, name, description, query, False)


_seat = enrollment.join(section)
_ODD: dict[str, tuple[tuple[str, str, Select[int]], ...]] = {
    "term": (
        (
            "duplicates",
            "No two terms have the same title and dates.",
            _repeated([term.c.title, term.c.starts_on, term.c.ends_on], term),
        ),
    ),
    "course": (
        (
            "duplicates",
            "No two courses have the same title and subject.",
            _repeated([course.c.title, course.c.subject], course),
        ),
    ),
    "section": (
        (
            "within_term",
            "Every section lies within the dates of its term.",
            _rows(
                (section.c.starts_on < term.c.starts_on) | (section.c.ends_on > term.c.ends_on),
                of=section.join(term),
            ),
        ),
    ),
    "enrollment": (
        (
            "dates_in_order",
            "No one withdraws before enrolling.",
            _rows(enrollment.c.withdrawn_on < enrollment.c.enrolled_on, of=enrollment),
        ),
        (
            "duplicates",
            "No one takes the same course twice in a term.",
            _repeated([enrollment.c.student_id, section.c.course_id, section.c.term_id], _seat),
        ),
    ),
    "assignment": (
        (
            "due_within_section",
            "Every assignment is due while its section runs.",
            _rows(
                (assignment.c.due_on < section.c.starts_on)
                | (assignment.c.due_on > section.c.ends_on),
                of=assignment.join(section),
            ),
        ),
        (
            "duplicates",
            "No two assignments of a section have the same category, title and due date.",
            _repeated(
                [
                    assignment.c.section_id,
                    assignment.c.category,
                    assignment.c.title,
                    assignment.c.due_on,
                ],
                assignment,
            ),
        ),
    ),
    "result": (
        (
            "dates_in_order",
            "Nothing is graded before it was submitted.",
            _rows(result.c.graded_on < result.c.submitted_on, of=result),
        ),
        (
            "enrolled",
            "Every result belongs to a student of the section.",
            _rows(
                ~sa.exists().where(
                    enrollment.c.section_id == assignment.c.section_id,
                    enrollment.c.student_id == result.c.student_id,
                ),
                of=result.join(assignment),
            ),
        ),
    ),
    "activity": (
        (
            "enrolled",
            "All activity belongs to a student of the section.",
            _rows(
                ~sa.exists().where(
                    enrollment.c.section_id == activity.c.section_id,
                    enrollment.c.student_id == activity.c.student_id,
                ),
                of=activity,
            ),
        ),
    ),
}


def days_since_load(connection: Connection, as_of: date) -> int | None:
    """Return the age in days of the newest load at `as_of`; None if nothing was ever loaded."""
    newest = connection.execute(sa.select(sa.func.max(load.c.loaded_at))).scalar()
    return None if newest is None else max((as_of - newest.date()).days, 0)


def running_sections(connection: Connection, as_of: date) -> int:
    """Return the number of sections that run at `as_of`."""
    running = sa.literal(as_of).between(section.c.starts_on, section.c.ends_on)
    return int(connection.execute(_rows(running, of=section)).scalar_one())


def score_histogram(connection: Connection) -> list[tuple[str, int]]:
    """Return the number of results per ten points of score, '0-9' to '90-100'."""
    bin_of = sa.func.least(sa.cast(sa.func.floor(result.c.score / 10), sa.Integer), 9)
    query = sa.select(bin_of, sa.func.count()).where(result.c.score.is_not(None)).group_by(bin_of)
    counts = {low: count for low, count in connection.execute(query)}
    return [
        (f"{10 * low}-{100 if low == 9 else 10 * low + 9}", counts.get(low, 0)) for low in range(10)
    ]


def enrollments_per_term(connection: Connection) -> list[tuple[str, int]]:
    """Return the number of enrollments per term, oldest term first."""
    query = (
        sa.select(term.c.term_id, sa.func.count())
        .select_from(_seat.join(term))
        .group_by(term.c.term_id, term.c.starts_on)
        .order_by(term.c.starts_on, term.c.term_id)
    )
    return [(name, count) for name, count in connection.execute(query)]


def weekly(connection: Connection, column: sa.Column[Any]) -> list[tuple[date, int]]:
    """Return the number of rows per week (its Monday) of a date `column`, oldest first."""
    week = sa.cast(sa.func.date_trunc("week", column), sa.Date)
    query = sa.select(week, sa.func.count()).where(column.is_not(None)).group_by(week)
    return [(monday, count) for monday, count in connection.execute(query.order_by(week))]
