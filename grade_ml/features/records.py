"""The gradebook as arrays: ids become positions, dates days, and each section one matrix.

Nothing is left out by date here; who asks for a cut compares days.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.outcomes import counting_weights, is_exam, scored_on, submission_seen_on

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: The day of what never happens, and of what happened at an unknown earlier time.
NEVER, ALWAYS = np.inf, -np.inf


@dataclass(frozen=True)
class SectionRecords:
    """One section: n enrollments in order of student, m assignments in order of due date.

    Days count from 1970-01-01; `NEVER` is the day of what is not recorded. Matrices have the shape
    (n, m).

    Attributes
    ----------
    students
        Positions in `Records.students`.
    weight, weight_with_exam
        Shares of the final grade, summing to 100, if exams do not count and if they do.
    category
        Small integers, equal for assignments of one category.
    seen_on, scored_on
        From when on the submission, and its score, are known; `submitted_on` is when it came.
    activity
        Enrollment (0 to n - 1), day and count, one row each per record.
    """

    number: int
    course: int
    starts_on: float
    ends_on: float
    students: Ints
    enrolled_on: Floats
    withdrawn_on: Floats
    due_on: Floats
    weight: Floats
    weight_with_exam: Floats
    exam: Bools
    category: Ints
    submitted_on: Floats
    seen_on: Floats
    scored_on: Floats
    score: Floats
    activity: tuple[Ints, Ints, Floats]


class Records:
    """All sections of a gradebook, each given out as `SectionRecords`.

    Records whose section, student or assignment is not in the gradebook are left out, as are those
    of students who are not enrolled in the section.
    """

    def __init__(self, gradebook: Gradebook) -> None:
        self.sections = gradebook.sections.sort_values("section_id", ignore_index=True)
        self.section_ids = pd.Index(self.sections["section_id"].astype(object))
        self.courses = pd.Index(sorted(self.sections["course_id"].unique()), dtype=object)
        self.section_course = _places(self.courses, self.sections["course_id"])
        self.starts_on = _days(self.sections["starts_on"], NEVER)
        self.ends_on = _days(self.sections["ends_on"], NEVER)
        self._read_enrollments(gradebook.enrollments)
        self._read_assignments(gradebook.assignments)
        self._read_results(gradebook)
        self._read_activity(gradebook.activity)

    def _read_enrollments(self, enrollments: pd.DataFrame) -> None:
        self.students = pd.Index(sorted(enrollments["student_id"].unique()), dtype=object)
        section = _places(self.section_ids, enrollments["section_id"])
        student = _places(self.students, enrollments["student_id"])
        self.enrollments = enrollments[section >= 0]
        key = self._seat(section, student)[section >= 0]
        order = np.argsort(key, kind="stable")
        self.enrollments = self.enrollments.iloc[order].reset_index(drop=True)
        self.seats = key[order]
        self.enrollment_section, self.enrollment_student = np.divmod(
            self.seats, max(len(self.students), 1)
        )
        self.enrolled_on = _days(self.enrollments["enrolled_on"], ALWAYS)
        self.withdrawn_on = _days(self.enrollments["withdrawn_on"], NEVER)

    def _read_assignments(self, assignments: pd.DataFrame) -> None:
        section = _places(self.section_ids, assignments["section_id"])
        rows = assignments.assign(
            section=section, due_on=assignments["due_on"].fillna(self._end(section))
        )
        rows = rows[section >= 0].sort_values(
            ["section", "due_on", "assignment_id"], ignore_index=True
        )
        self.assignments = rows
        self.assignment_section = rows["section"].to_numpy(np.int64)
        self._due = _days(rows["due_on"], NEVER)
        self.exam = is_exam(rows["category"]).to_numpy(np.bool_)
        exams = rows["assignment_id"][self.exam]
        self.weight, self._weight_with_exam = (
            rows["assignment_id"].map(counting_weights(rows, graded)).fillna(0.0).to_numpy()
            for graded in (exams[:0], exams)
        )
        self._category = pd.factorize(rows["category"].astype(object))[0].astype(np.int64)

    def _end(self, section: Ints) -> pd.Series:
        """Return the ends of sections, NaT for -1."""
        ends = self.sections["ends_on"].reindex(pd.Index(section))
        return ends.reset_index(drop=True)

    def _read_results(self, gradebook: Gradebook) -> None:
        results = gradebook.results
        known = pd.Index(self.assignments["assignment_id"].astype(object))
        place = _places(known, results["assignment_id"])
        section = np.where(place >= 0, self.assignment_section[place], -1) if len(place) else place
        seat = self._find_seat(section, results["student_id"])
        kept = seat >= 0
        rows = results[kept].reset_index(drop=True)
        place, seat, section = place[kept], seat[kept], section[kept]
        rows["due_on"] = self.assignments["due_on"].to_numpy()[place]
        rows["ends_on"] = self.sections["ends_on"].to_numpy()[section]
        order = np.argsort(section, kind="stable")
        self.result_section, self.result_seat = section[order], seat[order]
        self.result_assignment = place[order]
        self.result_submitted_on = _days(rows["submitted_on"], NEVER)[order]
        self.result_seen_on = _days(submission_seen_on(rows), NEVER)[order]
        self.result_scored_on = _days(scored_on(rows), NEVER)[order]
        self.result_score = rows["score"].to_numpy(np.float64, na_value=np.nan)[order]

    def _read_activity(self, activity: pd.DataFrame) -> None:
        section = _places(self.section_ids, activity["section_id"])
        seat = self._find_seat(section, activity["student_id"])
        kept = np.flatnonzero(seat >= 0)
        order = kept[np.argsort(section[kept], kind="stable")]
        self._activity_section = section[order]
        self._activity_seat = seat[order]
        self._activity_day = _days(activity["day"], NEVER)[order].astype(np.int64)
        self._activity_count = activity["count"].to_numpy(np.float64)[order]

    def _seat(self, section: Ints, student: Ints) -> Ints:
        return np.asarray(section.astype(np.int64) * max(len(self.students), 1) + student)

    def _find_seat(self, section: Ints, student_ids: pd.Series) -> Ints:
        """Return the places of enrollments, -1 where the student is not enrolled."""
        student = _places(self.students, student_ids)
        if not len(self.seats):
            return np.full(len(student), -1)
        key = self._seat(section, student)
        place = np.minimum(np.searchsorted(self.seats, key), len(self.seats) - 1)
        found = (self.seats[place] == key) & (section >= 0) & (student >= 0)
        return np.where(found, place, -1)

    def section(self, number: int) -> SectionRecords:
        """Return the section at that position of `sections`."""
        seats = _stretch(self.enrollment_section, number)
        places = _stretch(self.assignment_section, number)
        rows = _stretch(self.result_section, number)
        acts = _stretch(self._activity_section, number)
        shape = (seats.stop - seats.start, places.stop - places.start)
        cell = (
            self.result_seat[rows] - seats.start,
            self.result_assignment[rows] - places.start,
        )

        def matrix(values: Floats, empty: float) -> Floats:
            filled = np.full(shape, empty)
            filled[cell] = values[rows]
            return filled

        return SectionRecords(
            number=number,
            course=int(self.section_course[number]),
            starts_on=float(self.starts_on[number]),
            ends_on=float(self.ends_on[number]),
            students=self.enrollment_student[seats],
            enrolled_on=self.enrolled_on[seats],
            withdrawn_on=self.withdrawn_on[seats],
            due_on=self._due[places],
            weight=self.weight[places],
            weight_with_exam=self._weight_with_exam[places],
            exam=self.exam[places],
            category=self._category[places],
            submitted_on=matrix(self.result_submitted_on, NEVER),
            seen_on=matrix(self.result_seen_on, NEVER),
            scored_on=matrix(self.result_scored_on, NEVER),
            score=matrix(self.result_score, np.nan),
            activity=(
                self._activity_seat[acts] - seats.start,
                self._activity_day[acts],
                self._activity_count[acts],
            ),
        )


def _stretch(sorted_numbers: Ints, number: int) -> slice:
    start, stop = np.searchsorted(sorted_numbers, [number, number + 1])
    return slice(int(start), int(stop))


def _places(index: pd.Index, values: pd.Series) -> Ints:
    """Return where the values stand in `index`, -1 for those that do not."""
    return np.asarray(index.get_indexer(pd.Index(values.astype(object))), dtype=np.int64)


def _days(dates: pd.Series, missing: float) -> Floats:
    """Return days since 1970-01-01 as floats."""
    values = dates.to_numpy("datetime64[D]")
    return np.where(np.isnat(values), missing, values.astype(np.int64).astype(np.float64))
