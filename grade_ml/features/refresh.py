"""Computes the stored snapshots and sequences of chosen courses anew from the gradebook."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core.frames import reasons, sound
from grade_ml.features.sequences import score_sequences
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.features.store import SEQUENCES, Frames
from grade_ml.features.validation import schema
from grade_ml.gradebook import frames
from grade_ml.gradebook.attributes import SOURCES, Declarations
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.schema import enrollment, section

#: Enrollments whose snapshots are in memory at once, about 30 kB each; a course is never divided.
AT_ONCE = 20_000


@dataclass(frozen=True)
class Refreshed:
    """What was stored of a course: rows, and how many enrollments were left out, by reason."""

    rows: int
    left_out: Mapping[str, int]


def refresh(
    connection: Connection,
    stored: Frames,
    courses: Collection[str],
    declared: Declarations = SOURCES,
) -> dict[str, Refreshed]:
    """Compute and store the snapshots of `courses` as of the day of `stored`.

    The result for a course does not depend on which others are refreshed with it.
    """
    found = {}
    for some in _groups(connection, courses):
        gradebook = frames.read(connection, some)
        chosen = gradebook.sections[gradebook.sections["course_id"].isin(some)]
        made = grade_snapshots(gradebook, weekly_cuts(chosen, stored.as_of), stored.as_of, declared)
        snapshots, odd = sound(made, schema())
        course_of_row = snapshots["course_id"].astype("string[pyarrow]")
        for course in some:
            rows = snapshots[course_of_row == course]
            stored.write(course, rows)
            left_out = reasons(odd[odd["course_id"] == course])
            found[course] = Refreshed(len(rows), left_out)
    return found


def refresh_sequences(
    connection: Connection,
    stored: Frames,
    courses: Collection[str],
    institution: Institution,
) -> dict[str, int]:
    """Compute and store the score sequences of `courses`; return the rows of each.

    They bear the day from which on each thing is known; nothing in them is left out by date.
    """
    counts = {}
    for some in _groups(connection, courses):
        gradebook = frames.read(connection, some, without=["activity"])
        sequences = score_sequences(gradebook, some, institution)
        course_of_row = sequences["course_id"].astype("string[pyarrow]")
        for course in some:
            rows = sequences[course_of_row == course]
            stored.write(course, rows, SEQUENCES)
            counts[course] = len(rows)
    return counts


def _groups(connection: Connection, courses: Collection[str]) -> Iterator[list[str]]:
    """Yield the courses in groups of at most `AT_ONCE` enrollments, or of one course."""
    query = (
        sa.select(section.c.course_id, sa.func.count())
        .join_from(section, enrollment)
        .where(section.c.course_id.in_(sorted(courses)))
        .group_by(section.c.course_id)
    )
    sizes: dict[str, int] = {course: count for course, count in connection.execute(query)}
    group: list[str] = []
    total = 0
    for course in courses:
        size = sizes.get(course, 0)
        if group and total + size > AT_ONCE:
            yield group
            group, total = [], 0
        group.append(course)
        total += size
    if group:
        yield group
