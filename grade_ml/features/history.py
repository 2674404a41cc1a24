"""What earlier sections show about a student and about a course, as of any day."""

from __future__ import annotations

from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from grade_ml.features.records import NEVER, Bools, Floats, Ints, Records, SectionRecords
from grade_ml.features.running_totals import RunningTotals
from grade_ml.gradebook.schema import Outcome

#: The features that come from a student's other courses.
OF_STUDENT = (
    "earlier_sections",
    "earlier_grade_mean",
    "earlier_at_risk_share",
    "earlier_withdrawals",
    "earlier_attempts",
    "concurrent_sections",
)


class _Past(NamedTuple):
    """Running totals by owner, a student or a course.

    `endings` counts who failed, who withdrew, and whose end is known; `sections` those that ended
    and those with a grade; `points` adds what counts in their final grades.
    """

    endings: RunningTotals
    sections: RunningTotals
    points: RunningTotals


class History:
    """The past of every student and course.

    A section counts from the day after its end on, a withdrawal from its own day on. Grades are
    those of the coursework, each score counting from the day on which it was known.
    """

    def __init__(self, records: Records) -> None:
        student, section = records.enrollment_student, records.enrollment_section
        course = records.section_course[section].astype(np.int64)
        self._courses = max(len(records.courses), 1)
        closed = records.ends_on[section] + 1
        outcome = records.enrollments["outcome"]
        moved = records.moved
        # Who left after the end took part to the end.
        withdrew = (records.withdrawn_on <= records.ends_on[section]) & ~moved
        is_known = withdrew | outcome.notna().to_numpy(bool)
        failed = withdrew | outcome.isin([Outcome.FAIL, Outcome.WITHDRAWN]).to_numpy(bool)
        settled = np.where(withdrew, np.minimum(closed, records.withdrawn_on), closed)
        weight, unknown = _final_weights(records)
        weighed = np.bincount(records.assignment_section, records.weight, len(records.starts_on))
        has_grade = (weighed[section] > 0) & ~unknown
        over = np.where(moved, NEVER, closed)
        owner, seat = records.result_section, records.result_seat
        known = np.maximum(records.result_scored_on, records.ends_on[owner] + 1)
        points = np.where(np.isfinite(known), records.result_score * weight / 100, 0.0)
        points[unknown[seat] | moved[seat]] = 0.0

        def past_of(owner: Ints, ended: Floats) -> _Past:
            return _Past(
                RunningTotals(
                    owner, np.where(is_known & ~moved, ended, NEVER), failed, withdrew, is_known
                ),
                RunningTotals(owner, over, np.ones(len(owner)), has_grade),
                RunningTotals(owner[seat], known, points),
            )

        self._students = past_of(student, settled)
        # Withdrawals from sections that still run are no evidence about those who stay. Made on
        # first use: a prediction for one student waits for it.
        self._make_courses = partial(past_of, course, closed)
        begun = np.maximum(records.starts_on[section], records.enrolled_on)
        self._attempts = RunningTotals(student * self._courses + course, begun)
        left = np.minimum(records.withdrawn_on, closed)
        # Who left before the start never took part.
        self._joined = RunningTotals(student, np.where(left > begun, begun, NEVER))
        self._left = RunningTotals(student, np.where(left > begun, left, NEVER))
        self._exam_known_on = _first_exam(records)

    @cached_property
    def _past_of_courses(self) -> _Past:
        return self._make_courses()

    def exam_counts(self, section: SectionRecords, days: Floats) -> np.ndarray:
        """Return for each day whether the course is known to count its exam by then."""
        return np.asarray(days >= self._exam_known_on[section.course])

    def features(self, section: SectionRecords, days: Floats) -> dict[str, Floats]:
        """Return the features of all enrollments of `section` on `days`, each (days, n)."""
        shape = (len(days), len(section.students))
        return self.of_students(section, days) | {
            name: np.broadcast_to(values[:, None], shape)
            for name, values in self._of_course(section, days).items()
        }

    def of_students(self, section: SectionRecords, days: Floats) -> dict[str, Floats]:
        """Return the features `OF_STUDENT`, each (days, n)."""
        shape = (len(days), len(section.students))
        student, day = (
            part.ravel() for part in np.broadcast_arrays(section.students, days[:, None])
        )
        sections, graded = self._students.sections(student, day).T
        failed, withdrew, known = self._students.endings(student, day).T
        points = self._students.points(student, day)[:, 0]
        attempt = student * self._courses + section.course
        before = np.full(len(day), section.starts_on - 1)
        own = (
            sections,
            _ratio(points, graded),
            _ratio(failed, known),
            withdrew,
            self._attempts(attempt, before)[:, 0],
            np.maximum(self._joined(student, day)[:, 0] - self._left(student, day)[:, 0] - 1, 0),
        )
        return {name: values.reshape(shape) for name, values in zip(OF_STUDENT, own, strict=True)}

    def _of_course(self, section: SectionRecords, days: Floats) -> dict[str, Floats]:
        course, past = np.full(len(days), section.course), self._past_of_courses
        enrollments, graded = past.sections(course, days).T
        failed, _, known = past.endings(course, days).T
        return {
            "course_sections": enrollments,
            "course_grade_mean": _ratio(past.points(course, days)[:, 0], graded),
            "course_at_risk_share": _ratio(failed, known),
        }


def _final_weights(records: Records) -> tuple[Floats, Bools]:
    """Return each result's share of the final grade, and which enrollments' grades are unknown."""
    weight = records.weight[records.result_assignment]
    exempt = np.isfinite(records.result_exempt_on)
    waiting = np.isfinite(records.result_seen_on) & ~np.isfinite(records.result_scored_on)
    unknown = np.zeros(len(records.enrollment_section), bool)
    unknown[records.result_seat[waiting & (weight > 0)]] = True
    # What students bring along from another section is divided as exemptions are.
    brought = records.assignment_section[records.personal]
    for number in np.union1d(records.result_section[exempt], brought):
        section = records.section(int(number))
        rows = np.flatnonzero(records.result_section == number)
        first = np.searchsorted(records.enrollment_section, number)
        seats = records.result_seat[rows] - first
        places = records.result_assignment[rows]
        places -= np.searchsorted(records.assignment_section, number)
        assert section.exempt_on is not None
        weight[rows] = section.shares.of(np.isfinite(section.exempt_on))[seats, places]
    return weight, unknown


def _first_exam(records: Records) -> Floats:
    known = np.full(max(len(records.courses), 1), NEVER)
    exam = records.exam[records.result_assignment]
    course = records.section_course[records.result_section[exam]]
    np.minimum.at(known, course, records.result_scored_on[exam])
    return known


def _ratio(part: Floats, whole: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(whole > 0, part / whole, np.nan))
