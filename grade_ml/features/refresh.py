"""Computes the stored snapshots and sequences of chosen courses from the gradebook.

Three jobs of the nightly run need the features of the day. The first computes them; the others see
that they are as new as the records, and after a load in between compute them again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.core.frames import reasons, sound
from grade_ml.features.origin import made_from, origin_of
from grade_ml.features.sequences import score_sequences
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.features.store import SEQUENCES, SNAPSHOTS, Frames
from grade_ml.features.validation import schema
from grade_ml.gradebook import frames
from grade_ml.gradebook.attributes import SOURCES, Declarations
from grade_ml.gradebook.catalog import newest_load
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.redesign import redesigns
from grade_ml.gradebook.schema import assignment, enrollment, section

#: Enrollments whose snapshots are in memory at once, about 30 kB each; a course is never divided.
AT_ONCE = 20_000


@dataclass(frozen=True)
class Refreshed:
    """What is stored of a course: rows, and how many enrollments were left out, by reason.

    `redesigned` states by running section what it has other than its course's past. `unchanged`
    if an earlier run of the day had computed it from the same records.
    """

    rows: int
    left_out: Mapping[str, int]
    redesigned: Mapping[str, str] = field(default_factory=dict)
    unchanged: bool = False


def refresh(
    connection: Connection,
    stored: Frames,
    courses: Collection[str],
    declared: Declarations = SOURCES,
) -> dict[str, Refreshed]:
    """Compute and store the snapshots of `courses` as of the day of `stored`.

    The result for a course does not depend on which others are refreshed with it. What the day has
    computed already from the same records and by the same rules stays.
    """
    origin = _origin(connection, declared)
    refreshed = _unchanged(stored, SNAPSHOTS, courses, origin)
    remaining = [name for name in courses if name not in refreshed]
    designed = _redesigned(connection, stored.as_of) if remaining else {}
    for group in _groups(connection, remaining):
        gradebook = frames.read(connection, group)
        chosen = gradebook.sections[gradebook.sections["course_id"].isin(group)]
        made = grade_snapshots(gradebook, weekly_cuts(chosen, stored.as_of), stored.as_of, declared)
        snapshots, odd = sound(made, schema())
        course_of_row = snapshots["course_id"].astype("string[pyarrow]")
        for course in group:
            rows = snapshots[course_of_row == course]
            left_out = reasons(odd[odd["course_id"] == course])
            own = designed.get(course, {})
            notes = {"origin": origin, "left_out": left_out, "redesigned": own}
            stored.write(course, rows, SNAPSHOTS, notes)
            refreshed[course] = Refreshed(len(rows), left_out, own)
    return refreshed


def refresh_sequences(
    connection: Connection,
    stored: Frames,
    courses: Collection[str],
    institution: Institution,
) -> dict[str, Refreshed]:
    """Compute and store the score sequences of `courses`, where they changed as in `refresh`.

    They hold the day from which on each thing is known; nothing in them is left out by date.
    """
    load = newest_load(connection)
    origin = made_from(load.key, institution.version) if load else None
    refreshed = _unchanged(stored, SEQUENCES, courses, origin)
    for group in _groups(connection, [name for name in courses if name not in refreshed]):
        gradebook = frames.read(connection, group, without=["activity"])
        sequences = score_sequences(gradebook, group, institution)
        course_of_row = sequences["course_id"].astype("string[pyarrow]")
        for course in group:
            rows = sequences[course_of_row == course]
            stored.write(course, rows, SEQUENCES, {"origin": origin, "left_out": {}})
            refreshed[course] = Refreshed(len(rows), {})
    return refreshed


def _origin(connection: Connection, declared: Declarations) -> str | None:
    """Return what snapshots are made from and by; `None` if nothing was loaded.

    Read before the records are read: a load that comes in between makes a frame look older than
    it is, and it is computed once more.
    """
    load = newest_load(connection)
    return origin_of(load.key, declared) if load else None


def _unchanged(
    stored: Frames, kind: str, courses: Collection[str], origin: str | None
) -> dict[str, Refreshed]:
    """Return the courses whose frame of the day has this origin."""
    unchanged = {}
    for course in courses if origin else ():
        known = stored.computed(course, kind)
        if known and known[1].get("origin") == origin:
            rows, notes = known
            redesigned = notes.get("redesigned", {})
            unchanged[course] = Refreshed(rows, notes["left_out"], redesigned, unchanged=True)
    return unchanged


def _redesigned(connection: Connection, as_of: date) -> dict[str, dict[str, str]]:
    """Return by course what its redesigned running sections have other than before."""
    by_course: dict[str, dict[str, str]] = {}
    sections = frames.read_table(connection, section)
    assignments = frames.read_table(connection, assignment)
    for name, redesign in redesigns(sections, assignments, as_of).items():
        by_course.setdefault(redesign.course_id, {})[name] = str(redesign)
    return by_course


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
