"""The gradebook as arrays: ids become positions, dates days, and each section one matrix.

Nothing is left out by date here; a caller that makes a cut compares days.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.grading import Shares, counting_weights, is_exam
from grade_ml.gradebook.moves import moves, with_history
from grade_ml.gradebook.outcomes import exempt_on, scored_on, submission_seen_on
from grade_ml.gradebook.schema import GradingPolicy

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: The day of what never happens, and of what happened at an unknown earlier time.
NEVER, ALWAYS = np.inf, -np.inf


@dataclass(frozen=True)
class EarlierResults:
    """Results of one section that later results replaced; one value per result.

    Attributes
    ----------
    cell
        Enrollment (0 to n - 1) and assignment (0 to m - 1).
    until
        The day from which on the later result, or none, replaces it.
    """

    cell: tuple[Ints, Ints]
    submitted_on: Floats
    seen_on: Floats
    scored_on: Floats
    exempt_on: Floats
    until: Floats
    score: Floats

    def take(self, rows: Ints) -> EarlierResults:
        """Return some of the results."""
        return EarlierResults(
            cell=(self.cell[0][rows], self.cell[1][rows]),
            submitted_on=self.submitted_on[rows],
            seen_on=self.seen_on[rows],
            scored_on=self.scored_on[rows],
            exempt_on=self.exempt_on[rows],
            until=self.until[rows],
            score=self.score[rows],
        )


@dataclass(frozen=True)
class SectionRecords:
    """One section: n enrollments in order of student, m assignments in order of due date.

    Days count from 1970-01-01; `NEVER` is the day of what is not recorded. Matrices have the shape
    (n, m).

    Attributes
    ----------
    students
        Positions in `Records.students`.
    moved
        Who left for another section of the course in the same term, on `withdrawn_on`.
    shares, shares_with_exam
        The shares of the final grade if exams do not count and if they do.
    exam
        Which assignments are final exams.
    category
        Small integers, equal for assignments of one category.
    seen_on, scored_on
        From when on the submission, and its score, are known; `submitted_on` is when it came.
    exempt_on
        From when on an assignment is known not to count for a student; None if no student is.
    late
        1 and 0 if the source states whether a submission is late, else NaN; None if it never does.
    earlier
        The results that later results replaced.
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
    moved: Bools
    due_on: Floats
    shares: Shares
    shares_with_exam: Shares
    exam: Bools
    category: Ints
    submitted_on: Floats
    seen_on: Floats
    scored_on: Floats
    score: Floats
    exempt_on: Floats | None
    late: Floats | None
    earlier: EarlierResults
    activity: tuple[Ints, Ints, Floats]

    @property
    def required(self) -> Bools:
        """Which assignments are coursework that is set for the whole section."""
        return ~(self.exam | self.shares.extra | self.shares.personal)


class Records:
    """All sections of a gradebook, each given out as `SectionRecords`.

    Records whose section, student or assignment is not in the gradebook are left out, as are those
    of students who are not enrolled in the section.
    """

    def __init__(self, gradebook: Gradebook) -> None:
        moved = moves(gradebook)
        gradebook = with_history(gradebook, moved)
        self.sections = gradebook.sections.sort_values("section_id", ignore_index=True)
        self.section_ids = pd.Index(self.sections["section_id"].astype(object))
        self.courses = pd.Index(sorted(self.sections["course_id"].unique()), dtype=object)
        self.section_course = _places(self.courses, self.sections["course_id"])
        self.starts_on = _days(self.sections["starts_on"], NEVER)
        self.ends_on = _days(self.sections["ends_on"], NEVER)
        self._read_enrollments(gradebook.enrollments, moved)
        self._read_assignments(gradebook.assignments)
        self._read_results(gradebook)
        self._read_activity(gradebook.activity)

    def _read_enrollments(self, enrollments: pd.DataFrame, moved: pd.DataFrame) -> None:
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
        ids = pd.MultiIndex.from_frame(self.enrollments[["section_id", "student_id"]])
        self.moved = ids.isin(moved.index) if len(moved) else np.zeros(len(ids), bool)

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
        self.weight = self._weight_with_exam = self._weights(exams[:0])
        if len(exams):
            self._weight_with_exam = self._weights(exams)
        # Sorted: which of two equal categories counts as the heavier depends on no other section.
        codes, _ = pd.factorize(rows["category"].astype(object), sort=True)
        self._category = codes.astype(np.int64)
        self.extra = rows["extra_credit"].to_numpy(bool)
        self.personal = rows["personal"].to_numpy(bool)
        policy = self.sections["grading_policy"].astype(object)
        self._by_category = (policy == GradingPolicy.CATEGORIES).to_numpy(bool)

    def _weights(self, graded_exams: pd.Series) -> Floats:
        weights = counting_weights(self.assignments, self.sections, graded_exams)
        # An assignment that does not count in the grade weighs 0; that is known.
        weight = self.assignments["assignment_id"].map(weights).fillna(0.0)
        return np.asarray(weight.to_numpy(np.float64))

    def _end(self, section: Ints) -> pd.Series:
        """Return the ends of sections, NaT for -1."""
        ends = self.sections["ends_on"].reindex(pd.Index(section))
        return ends.reset_index(drop=True)

    def _read_results(self, gradebook: Gradebook) -> None:
        rows, section, self.result_seat, self.result_assignment = self._placed(gradebook.results)
        self.result_section = section
        self.result_submitted_on = _days(rows["submitted_on"], NEVER)
        self.result_seen_on = _days(submission_seen_on(rows), NEVER)
        self.result_scored_on = _days(scored_on(rows), NEVER)
        self.result_exempt_on = _days(exempt_on(rows), NEVER)
        self.result_score = rows["score"].to_numpy(np.float64, na_value=np.nan)
        self._result_late = rows["late"].astype("Float64").to_numpy(np.float64, na_value=np.nan)
        if gradebook.earlier_results.empty:  # as of most students, for whom it would take 5 ms
            self._earlier_at = [np.zeros(0, np.int64)] * 3
            self._earlier = {
                field.name: np.zeros(0) for field in fields(EarlierResults) if field.name != "cell"
            }
            return
        rows, *self._earlier_at = self._placed(gradebook.earlier_results)
        self._earlier = {
            "submitted_on": _days(rows["submitted_on"], NEVER),
            "seen_on": _days(submission_seen_on(rows), NEVER),
            "scored_on": _days(scored_on(rows), NEVER),
            "exempt_on": _days(exempt_on(rows), NEVER),
            "until": _days(rows["until"], NEVER),
            "score": rows["score"].to_numpy(np.float64, na_value=np.nan),
        }

    def _placed(self, results: pd.DataFrame) -> tuple[pd.DataFrame, Ints, Ints, Ints]:
        """Return the results that belong here, in order of section: rows, section, seat, place."""
        known = pd.Index(self.assignments["assignment_id"].astype(object))
        place = _places(known, results["assignment_id"])
        section = np.where(place >= 0, self.assignment_section[place], -1) if len(place) else place
        seat = self._find_seat(section, results["student_id"])
        usable = np.flatnonzero(seat >= 0)
        order = usable[np.argsort(section[usable], kind="stable")]
        section, seat, place = section[order], seat[order], place[order]
        rows = results.iloc[order].reset_index(drop=True)
        rows["due_on"] = self.assignments["due_on"].to_numpy()[place]
        rows["ends_on"] = self.sections["ends_on"].to_numpy()[section]
        return rows, section, seat, place

    def _read_activity(self, activity: pd.DataFrame) -> None:
        section = _places(self.section_ids, activity["section_id"])
        seat = self._find_seat(section, activity["student_id"])
        usable = np.flatnonzero(seat >= 0)
        order = usable[np.argsort(section[usable], kind="stable")]
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
        is_enrolled = (self.seats[place] == key) & (section >= 0) & (student >= 0)
        return np.where(is_enrolled, place, -1)

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

        def matrix(values: np.ndarray, empty: float) -> Floats:
            filled = np.full(shape, empty)
            filled[cell] = values[rows]
            return filled

        earlier = self._earlier_of(number, seats, places)
        seen, submitted = (
            matrix(values, NEVER) for values in (self.result_seen_on, self.result_submitted_on)
        )
        # What is handed in again was handed in before.
        for days, before in ((seen, earlier.seen_on), (submitted, earlier.submitted_on)):
            again = np.isfinite(days[earlier.cell])
            cells = tuple(part[again] for part in earlier.cell)
            np.minimum.at(days, cells, before[again])
        some_exempt = (
            np.isfinite(self.result_exempt_on[rows]).any()
            or np.isfinite(earlier.exempt_on).any()
            or self.personal[places].any()
        )
        some_late = not np.isnan(self._result_late[rows]).all()
        return SectionRecords(
            number=number,
            course=int(self.section_course[number]),
            starts_on=float(self.starts_on[number]),
            ends_on=float(self.ends_on[number]),
            students=self.enrollment_student[seats],
            enrolled_on=self.enrolled_on[seats],
            withdrawn_on=self.withdrawn_on[seats],
            moved=self.moved[seats],
            due_on=self._due[places],
            shares=self._shares(number, places, self.weight),
            shares_with_exam=self._shares(number, places, self._weight_with_exam),
            exam=self.exam[places],
            category=self._category[places],
            submitted_on=submitted,
            seen_on=seen,
            scored_on=matrix(self.result_scored_on, NEVER),
            score=matrix(self.result_score, np.nan),
            exempt_on=matrix(self.result_exempt_on, NEVER) if some_exempt else None,
            late=matrix(self._result_late, np.nan) if some_late else None,
            earlier=earlier,
            activity=(
                self._activity_seat[acts] - seats.start,
                self._activity_day[acts],
                self._activity_count[acts],
            ),
        )

    def _shares(self, number: int, places: slice, weight: Floats) -> Shares:
        by_category = self._by_category[number]
        return Shares(
            weight[places],
            self.extra[places],
            self.personal[places],
            self._category[places] if by_category else None,
        )

    def _earlier_of(self, number: int, seats: slice, places: slice) -> EarlierResults:
        section, seat, place = self._earlier_at
        rows = _stretch(section, number)
        return EarlierResults(
            cell=(seat[rows] - seats.start, place[rows] - places.start),
            **{name: values[rows] for name, values in self._earlier.items()},
        )


def _stretch(sorted_numbers: Ints, number: int) -> slice:
    start, stop = np.searchsorted(sorted_numbers, [number, number + 1])
    return slice(int(start), int(stop))


def _places(index: pd.Index, values: pd.Series) -> Ints:
    """Return where the values are in `index`, -1 for those that do not."""
    return np.asarray(index.get_indexer(pd.Index(values.astype(object))), dtype=np.int64)


def _days(dates: pd.Series, missing: float) -> Floats:
    """Return days since 1970-01-01 as floats."""
    values = dates.to_numpy("datetime64[D]")
    return np.where(np.isnat(values), missing, values.astype(np.int64).astype(np.float64))
