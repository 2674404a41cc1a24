"""The campus as the gradebook sees it on a day: frames of everything recorded by then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from grade_ml.campus.simulated import model
from grade_ml.campus.simulated.calendar import Term, newest_term
from grade_ml.campus.simulated.conditions import conditions
from grade_ml.campus.simulated.config import CampusConfig, Help
from grade_ml.campus.simulated.laws import LAWS
from grade_ml.campus.simulated.truth import WITHOUT_EFFECT, Truth
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook, with_defaults

if TYPE_CHECKING:
    from typing import Any

    import sqlalchemy as sa


Texts = pd.arrays.ArrowStringArray

STUDENT_PREFIX = "sim-"


@dataclass(frozen=True)
class Section:
    """One section with its students and its events."""

    section_id: str
    term: Term
    course: model.Course
    people: model.People
    credits: np.ndarray
    events: model.SectionCourse


class Campus:
    """A simulated campus on one day.

    Parameters
    ----------
    config
        Size, seed, differences between terms, drift and intervention.
    today
        Records of later days do not exist yet. A later day of the same newest term adds records and
        fills in scores, grading days, withdrawals and outcomes that were empty; nothing else.
    help_
        Help for students up to today, which changes their behaviour from then on.
    """

    def __init__(self, config: CampusConfig, today: date, help_: Help | None = None) -> None:
        self.config, self.help = config, help_
        self.today = today
        newest = newest_term(today)
        self.terms = [Term(newest.number - n) for n in reversed(range(config.terms))]
        self.courses = [model.course(config, number) for number in range(config.courses)]

    def batches(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield table name and typed frame (all columns of the table), term by term.

        References point to earlier batches. At any time one term's students and one section
        (at most `model.SECTION_SIZE` students) are in memory.
        """
        for term, newcomers, sections in self._by_term():
            yield "student", _students(newcomers)
            yield "term", _term(term)
            if term is self.terms[0]:
                yield "course", _courses(self.courses)
            for section in sections:
                yield from _section_frames(section, self.today)

    def truth(self) -> Truth:
        """Return what no gradebook knows: traits, engagement, conditions and all effects."""
        students, enrollments = [], []
        for _, newcomers, sections in self._by_term():
            students.append(_true_students(newcomers))
            enrollments += [_true_enrollments(section) for section in sections]
        first = np.datetime64(self.terms[0].starts_on, "D")
        parameters = {
            "config": asdict(self.config),
            "today": self.today,
            "laws": asdict(LAWS),
            "without_effect": WITHOUT_EFFECT,
        }
        return Truth(
            # Writing and reading JSON turns dates into strings.
            parameters=json.loads(json.dumps(parameters, default=str)),
            students=pd.concat(students, ignore_index=True),
            courses=pd.DataFrame(
                {
                    "course_id": _texts([course.course_id for course in self.courses]),
                    "difficulty": [course.difficulty for course in self.courses],
                }
            ),
            enrollments=pd.concat(enrollments, ignore_index=True),
            conditions=conditions(self.config.seed, first, np.datetime64(self.today, "D")),
        )

    def _by_term(self) -> Iterator[tuple[Term, model.People, Iterator[Section]]]:
        """Yield each term, the students seen for the first time, and its sections."""
        first = self.terms[0].number
        stay = self.config.stay
        cohorts = [model.cohort(self.config, Term(first - n)) for n in reversed(range(1, stay))]
        courses = self.courses
        for term in self.terms:
            courses = [model.in_term(self.config, *each, term) for each in enumerate(courses)]
            cohorts.append(model.cohort(self.config, term))
            people = model.People.concat(cohorts[-stay:])
            newcomers = people if term.number == first else cohorts[-1]
            yield term, newcomers, self._sections(term, people, courses[: self._offered(term)])
            cohorts = cohorts[1:]

    def _offered(self, term: Term) -> int:
        new = 0 if term in self.terms[-2:] else self.config.differences.new_courses
        return len(self.courses) - new

    def _sections(
        self, term: Term, people: model.People, courses: list[model.Course]
    ) -> Iterator[Section]:
        course_counts, sections = model.choices(self.config, term, courses, people)
        for number, part, places in sections:
            course, members = courses[number], people.take(places)
            suffix = f"-{part + 1}" if part else ""
            name = f"{course.course_id}_{term.code}{suffix}"
            yield Section(
                section_id=name,
                term=term,
                course=course,
                people=members,
                credits=30 * course_counts[places],
                events=model.run_section(
                    self.config,
                    term,
                    course,
                    members,
                    (number, part),
                    None if self.help is None else _helped_on(self.help, name, members),
                    0.0 if self.help is None else self.help.rescued,
                ),
            )


def _helped_on(help_: Help, section_id: str, people: model.People) -> np.ndarray:
    days = [help_.since.get((section_id, str(name))) for name in student_ids(people.number)]
    return np.array([model.NEVER if day is None else model.day_number(day) for day in days])


def gradebook(config: CampusConfig, today: date, help_: Help | None = None) -> Gradebook:
    """Return the whole campus in memory."""
    parts: dict[str, list[pd.DataFrame]] = {table.name: [] for table in schema.TABLES}
    for table, frame in Campus(config, today, help_).batches():
        parts[table].append(frame)
    return Gradebook(*(pd.concat(frames, ignore_index=True) for frames in parts.values()))


def _students(people: model.People) -> pd.DataFrame:
    names = list(people.traits)
    rows = zip(*(people.traits[name].tolist() for name in names), strict=True)
    attributes = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    return _frame(
        schema.student, student_id=student_ids(people.number), attributes=_texts(attributes)
    )


def student_ids(numbers: np.ndarray) -> Texts:
    """Return ids such as `sim-000042`."""
    return _texts([f"{STUDENT_PREFIX}{number:06d}" for number in numbers.tolist()])


def _term(term: Term) -> pd.DataFrame:
    return _frame(
        schema.term,
        term_id=_texts([term.term_id]),
        title=_texts([term.title]),
        starts_on=pd.to_datetime([term.starts_on]),
        ends_on=pd.to_datetime([term.ends_on]),
    )


def _courses(courses: list[model.Course]) -> pd.DataFrame:
    return _frame(
        schema.course,
        course_id=_texts([course.course_id for course in courses]),
        title=_texts([course.title for course in courses]),
        subject=_texts([course.subject for course in courses]),
    )


def _section_frames(section: Section, today: date) -> Iterator[tuple[str, pd.DataFrame]]:
    now = model.day_number(today)
    student_id = student_ids(section.people.number)
    yield "section", _section(section)
    yield "enrollment", _enrollments(section, student_id, now)
    assignment_id = _texts(
        [f"{section.section_id}_{n:02d}" for n in range(1, len(section.course.weight) + 1)]
    )
    yield "assignment", _assignments(section, assignment_id)
    yield "result", _results(section, student_id, assignment_id, now)
    yield "activity", _activity(section, student_id, now)


def _section(section: Section) -> pd.DataFrame:
    return _frame(
        schema.section,
        section_id=_texts([section.section_id]),
        course_id=_texts([section.course.course_id]),
        term_id=_texts([section.term.term_id]),
        starts_on=pd.to_datetime([section.term.starts_on]),
        ends_on=pd.to_datetime([section.term.ends_on]),
    )


def _enrollments(section: Section, student_id: Texts, now: int) -> pd.DataFrame:
    events = section.events
    ended = model.day_number(section.term.ends_on) < now
    known = ended | (events.withdrawn_on <= now)
    outcome = pd.Series(events.outcome, dtype="string[pyarrow]").where(known)
    attributes = [f'{{"studied_credits": {credits}}}' for credits in section.credits.tolist()]
    return _frame(
        schema.enrollment,
        section_id=_same(section.section_id, len(student_id)),
        student_id=student_id,
        enrolled_on=_dates(events.enrolled_on, now),
        withdrawn_on=_dates(events.withdrawn_on, now),
        outcome=outcome.array,
        attributes=_texts(attributes),
    )


def _assignments(section: Section, assignment_id: Texts) -> pd.DataFrame:
    course = section.course
    count = len(course.weight)
    return _frame(
        schema.assignment,
        assignment_id=assignment_id,
        section_id=_same(section.section_id, count),
        category=_texts(list(course.categories)),
        title=_texts(list(course.titles)),
        due_on=_dates(section.events.due_on, model.NEVER),
        weight=course.weight,
        max_score=np.full(count, 100.0),
    )


def _results(section: Section, student_id: Texts, assignment_id: Texts, now: int) -> pd.DataFrame:
    events = section.events
    student, assignment = np.nonzero(events.submitted_on <= now)
    graded_on = events.graded_on[student, assignment]
    return _frame(
        schema.result,
        assignment_id=assignment_id.take(assignment),
        student_id=student_id.take(student),
        score=np.where(graded_on <= now, events.score[student, assignment], np.nan),
        submitted_on=_dates(events.submitted_on[student, assignment], now),
        graded_on=_dates(graded_on, now),
        carried_over=np.zeros(len(student), dtype=bool),
    )


def _activity(section: Section, student_id: Texts, now: int) -> pd.DataFrame:
    events = section.events
    student, week = np.nonzero((events.activity_count > 0) & (events.activity_day <= now))
    return _frame(
        schema.activity,
        section_id=_same(section.section_id, len(student)),
        student_id=student_id.take(student),
        day=_dates(events.activity_day[student, week], now),
        kind=_same("online", len(student)),
        count=events.activity_count[student, week],
    )


def _true_students(people: model.People) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "student_id": student_ids(people.number),
            "ability": people.ability,
            "diligence": people.diligence,
            "treated": people.treated,
        }
    )


def _true_enrollments(section: Section) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "section_id": _same(section.section_id, len(section.people)),
            "student_id": student_ids(section.people.number),
            "engagement": section.events.engagement,
            "stopped_on": _dates(section.events.stopped_on, model.NEVER - 1),
        }
    )


def _frame(table: sa.Table, **columns: Any) -> pd.DataFrame:
    frame = with_defaults(table, pd.DataFrame(columns))
    return frame[[column.name for column in table.columns]]


def _texts(values: list[str]) -> Texts:
    return pd.array(values, dtype="string[pyarrow]")


def _same(value: str, count: int) -> Texts:
    return _texts([value]).take(np.zeros(count, dtype="int64"))


def _dates(days: np.ndarray, last: int) -> np.ndarray:
    """Return days since 1970-01-01 as datetimes; those after `last` are missing."""
    known = np.where(days <= last, days, 0).astype("datetime64[D]").astype("datetime64[ns]")
    return np.where(days <= last, known, np.datetime64("NaT", "ns"))
