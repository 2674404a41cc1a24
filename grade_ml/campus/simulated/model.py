"""Draws the events on the campus as numpy arrays: people, courses, and the course of a section.

Days are int64 days since 1970-01-01. A section is always drawn to its end, without regard to
today; `campus` removes what is not known yet, so that a later day only adds records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from grade_ml.campus.simulated.calendar import LENGTH, Term
from grade_ml.campus.simulated.conditions import condition_values
from grade_ml.campus.simulated.config import CampusConfig, DriftKind
from grade_ml.campus.simulated.laws import LAWS
from grade_ml.campus.simulated.seeds import Purpose, generator
from grade_ml.gradebook import schema

#: Students of a course beyond this number form parallel sections, which bounds a batch.
SECTION_SIZE = 2000
#: Never: a day beyond every term.
NEVER = 2**40
#: What each attribute of students and enrollments may be used for.
EXAM = "Exam"
QUIZ = "Quiz"

_SUBJECTS = (
    ("MATH", "Mathematics"),
    ("COMP", "Computing"),
    ("PSYC", "Psychology"),
    ("ECON", "Economics"),
    ("BIOL", "Biology"),
    ("HIST", "History"),
    ("PHYS", "Physics"),
    ("SOCI", "Sociology"),
    ("CHEM", "Chemistry"),
    ("ENGL", "English"),
    ("LAWS", "Law"),
    ("NURS", "Nursing"),
)
_TITLES = ("Introduction to", "Foundations of", "Methods of", "Topics in")


@dataclass(frozen=True)
class People:
    """Students, one element per student in every array.

    `number` is unique over all terms; `traits` has the columns of the student's attributes.
    """

    number: np.ndarray
    ability: np.ndarray
    diligence: np.ndarray
    treated: np.ndarray
    traits: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.number)

    def take(self, places: np.ndarray) -> People:
        """Return the students at `places`."""
        traits = {name: values[places] for name, values in self.traits.items()}
        return People(
            self.number[places],
            self.ability[places],
            self.diligence[places],
            self.treated[places],
            traits,
        )

    @staticmethod
    def concat(parts: list[People]) -> People:
        """Return the students of all `parts`."""
        return People(
            number=np.concatenate([part.number for part in parts]),
            ability=np.concatenate([part.ability for part in parts]),
            diligence=np.concatenate([part.diligence for part in parts]),
            treated=np.concatenate([part.treated for part in parts]),
            traits={
                name: np.concatenate([part.traits[name] for part in parts])
                for name in parts[0].traits
            },
        )


@dataclass(frozen=True)
class Course:
    """A course and its pattern of assessment; arrays have one element per assignment."""

    course_id: str
    title: str
    subject: str
    difficulty: float
    popularity: float
    categories: tuple[str, ...]
    titles: tuple[str, ...]
    due_day: np.ndarray
    weight: np.ndarray

    @property
    def is_quiz(self) -> np.ndarray:
        """Whether each assignment is a quiz."""
        return np.array([name == QUIZ for name in self.categories])


@dataclass(frozen=True)
class SectionCourse:
    """All events in one section; n enrollments (rows), m assignments (columns), w weeks.

    Days beyond a term are `NEVER`. `stopped_on` is the day on which a student stopped taking part,
    formally or not; only formal withdrawals have `withdrawn_on`.
    """

    due_on: np.ndarray
    engagement: np.ndarray
    enrolled_on: np.ndarray
    stopped_on: np.ndarray
    withdrawn_on: np.ndarray
    outcome: np.ndarray
    submitted_on: np.ndarray
    graded_on: np.ndarray
    score: np.ndarray
    activity_day: np.ndarray
    activity_count: np.ndarray


def first_number(config: CampusConfig, term: int) -> int:
    """Return the number of the first student who enters in `term`, or in the next non-empty one.

    Over any `terms + stay - 1` consecutive terms exactly `students` students enter.
    """
    return term * config.students // (config.terms + config.stay - 1)


def cohort(config: CampusConfig, term: Term) -> People:
    """Return the students who enter in `term`."""
    first, after = (first_number(config, term.number + n) for n in (0, 1))
    size = after - first
    random = generator(config.seed, Purpose.COHORT, term.number)
    imd_band = random.integers(0, 10, size)
    ability = random.standard_normal(size) + LAWS.ability_by_imd_band * (imd_band - 4.5)
    other = random.standard_normal(size)
    correlation = LAWS.trait_correlation
    diligence = correlation * ability + np.sqrt(1 - correlation**2) * other
    drift = config.drift
    if drift and drift.kind is DriftKind.COHORT_MIX and term.starts_on >= drift.on:
        ability = ability + drift.shift
    ability = ability + _shift(config, config.differences.cohort, Purpose.TERM_ABILITY, term.number)
    grade = LAWS.prior_grade_mean + LAWS.prior_grade_by_ability * ability
    grade = np.clip(grade + LAWS.prior_grade_noise * random.standard_normal(size), 0, 100)
    traits = {
        "age_band": random.choice(["0-35", "35-55", "55<="], size, p=[0.7, 0.28, 0.02]),
        "disability": random.choice(["N", "Y"], size, p=[0.9, 0.1]),
        "gender": random.choice(["F", "M"], size, p=[0.5, 0.5]),
        "imd_band": np.array([f"{10 * n}-{10 * n + 10}%" for n in range(10)])[imd_band],
        "prior_grade": grade.round(1),
        "region": random.choice(["East", "North", "South", "West"], size),
    }
    treated = np.zeros(size, dtype=bool)
    if config.intervention:
        treatment = generator(config.seed, Purpose.TREATMENT, term.number)
        treated = treatment.random(size) < config.intervention.share
    return People(np.arange(first, after), ability, diligence, treated, traits)


def _shift(config: CampusConfig, scale: float, purpose: Purpose, *place: int) -> float:
    """Return what a term, or a course in it, has of its own: mean 0 and SD `scale` over places."""
    return scale * float(generator(config.seed, purpose, *place).standard_normal())


def course(config: CampusConfig, number: int, *redesign: int) -> Course:
    """Return the course of that number; it does not depend on the number of courses.

    Parameters
    ----------
    redesign
        The number of the term in which it was designed again; empty if it never was.
    """
    random = generator(config.seed, Purpose.COURSE, number, *redesign)
    code, subject = _SUBJECTS[number % len(_SUBJECTS)]
    level = number // len(_SUBJECTS)
    again = level // len(_TITLES)
    quizzes, essays = int(random.integers(0, 7)), int(random.integers(3, 7))
    days = np.linspace(0.08, 0.9, quizzes + essays) * LENGTH + random.uniform(-5, 5)
    is_quiz = random.permutation(np.arange(quizzes + essays) < quizzes)
    weight = np.where(is_quiz, random.choice([0.25, 0.5]), 1.0) * np.linspace(0.8, 1.4, len(days))
    exam = int(random.random() < 0.4)
    weight = np.round(weight / weight.sum() * (70 if exam else 100), 1)
    categories = [QUIZ if quiz else "Assignment" for quiz in is_quiz] + [EXAM] * exam
    places = [categories[: n + 1].count(name) for n, name in enumerate(categories)]
    return Course(
        course_id=f"SIM-{code}{101 + 100 * level}",
        title=f"{_TITLES[level % len(_TITLES)]} {subject}" + (f" {again + 1}" if again else ""),
        subject=subject,
        difficulty=LAWS.course_difficulty * random.standard_normal(),
        popularity=0.4 * random.standard_normal(),
        categories=tuple(categories),
        titles=tuple(
            name if name == EXAM else f"{name} {place}"
            for name, place in zip(categories, places, strict=True)
        ),
        due_day=np.append(days, [LENGTH - 14.0] * exam).astype("int64"),
        weight=np.append(weight, [30.0] * exam),
    )


def in_term(config: CampusConfig, number: int, before: Course, term: Term) -> Course:
    """Return the course as it is from `term` on: as `before`, or redesigned."""
    random = generator(config.seed, Purpose.REDESIGN, term.number, number)
    if random.random() >= config.differences.redesigned:
        return before
    designed = course(config, number, term.number)
    return replace(designed, difficulty=before.difficulty, popularity=before.popularity)


def choices(
    config: CampusConfig, term: Term, courses: list[Course], people: People
) -> tuple[np.ndarray, Iterator[tuple[int, int, np.ndarray]]]:
    """Return courses taken per student, and (course, part, places of students) per section."""
    random = generator(config.seed, Purpose.CHOICE, term.number)
    course_counts = np.minimum(3 + random.integers(0, 2, len(people)), len(courses))
    liking = random.gumbel(size=(len(people), len(courses)))
    liking += [course.popularity for course in courses]
    rank = (-liking).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    chosen = rank < course_counts[:, None]

    def sections() -> Iterator[tuple[int, int, np.ndarray]]:
        for number in range(len(courses)):
            places = np.flatnonzero(chosen[:, number])
            for part, seats in enumerate(
                np.array_split(places, max(1, -(-len(places) // SECTION_SIZE)))
            ):
                yield number, part, seats

    return course_counts, sections()


def run_section(  # noqa: PLR0913, PLR0917
    config: CampusConfig,
    term: Term,
    course: Course,
    people: People,
    place: tuple[int, int],
    helped_on: np.ndarray | None = None,
    rescued: float = 0.0,
) -> SectionCourse:
    """Draw the events in one section from enrollment to outcome.

    Parameters
    ----------
    people
        The students enrolled in it.
    place
        Number of the course and of the parallel section.
    helped_on
        The day on which each student was first helped (`NEVER` if not); None if no student was.
    rescued
        Share, 0-1, of the work after that day that is handed in and would have been missed.
    """
    random = generator(config.seed, Purpose.SECTION, term.number, *place)
    start = day_number(term.starts_on)
    n, m = len(people), len(course.due_day)
    due_on = start + course.due_day + random.integers(-2, 3, m)
    engagement = (
        LAWS.engagement_by_diligence * people.diligence
        + LAWS.engagement_by_ability * people.ability
        + LAWS.engagement_noise * random.standard_normal(n)
    )
    enrolled_on = start + 14 - random.gamma(2.5, 25.0, n).astype("int64")
    differences = config.differences
    leaving = _shift(config, differences.base_rate, Purpose.TERM_LEAVING, term.number)
    stopped_on, withdrawn_on = _departures(random, start, engagement, enrolled_on, leaving)
    weather = condition_values(config.seed, np.arange(start - 1, start + LENGTH + 1))
    effects = LAWS.conditions.values()
    submission_effect = weather @ [effect.submission for effect in effects]
    score_effect = weather @ [effect.score for effect in effects]

    propensity = (
        LAWS.submit_intercept
        + LAWS.submit_by_engagement * engagement[:, None]
        + LAWS.submit_over_term * (due_on - start) / LENGTH
        + submission_effect[due_on - start + 1]
    )
    submits = random.random((n, m)) < _sigmoid(propensity)
    submits |= _rescued(config, term, place, people, due_on)
    from_day = np.maximum(start, enrolled_on)
    submitted_on = _submission_days(random, course, engagement, due_on)
    submitted_on = np.clip(submitted_on, from_day[:, None], start + LENGTH)
    if helped_on is not None:
        lucky = generator(config.seed, Purpose.HELP, term.number, *place).random((n, m)) < rescued
        submits |= lucky & (submitted_on > helped_on[:, None])
    submits &= submitted_on < stopped_on[:, None]
    more = random.exponential(LAWS.grading_days_more, (n, m)).astype("int64")
    graded_on = np.minimum(submitted_on + LAWS.grading_days_least + more, start + LENGTH)
    logit = (
        LAWS.score_intercept
        - course.difficulty
        + (LAWS.score_by_ability * people.ability + LAWS.score_by_engagement * engagement)[:, None]
        + LAWS.score_quiz * course.is_quiz
        + LAWS.score_by_assignment * random.standard_normal(m)
        + LAWS.score_noise * random.standard_normal((n, m))
    )
    score = LAWS.score_ceiling * _sigmoid(logit) + score_effect[submitted_on - start + 1]
    drift = config.drift
    if drift and drift.kind is DriftKind.GRADING_POLICY:
        score = score + np.where(graded_on >= day_number(drift.on), drift.shift, 0.0)
    score = score + _shift(config, differences.policy, Purpose.TERM_GRADING, term.number, place[0])
    score = np.clip(np.round(score), 0, 100)
    activity_day, activity_count = _activity(random, start, engagement, due_on)
    takes_part = (activity_day >= from_day[:, None]) & (activity_day < stopped_on[:, None])
    return SectionCourse(
        due_on=due_on,
        engagement=engagement,
        enrolled_on=enrolled_on,
        stopped_on=stopped_on,
        withdrawn_on=withdrawn_on,
        outcome=_outcomes(random, course, np.where(submits, score, 0), withdrawn_on),
        submitted_on=np.where(submits, submitted_on, NEVER),
        graded_on=np.where(submits, graded_on, NEVER),
        score=score,
        activity_day=activity_day,
        activity_count=np.where(takes_part, activity_count, 0),
    )


def _departures(
    random: np.random.Generator,
    start: int,
    engagement: np.ndarray,
    enrolled_on: np.ndarray,
    log_hazard: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the days on which students stop taking part, and on which they withdraw.

    `log_hazard` is what the term adds to the log hazard of leaving.
    """
    n = len(engagement)
    hazard = LAWS.leave_hazard * np.exp(log_hazard - LAWS.leave_by_engagement * engagement)
    time = (random.standard_exponential(n) / hazard) ** (1 / LAWS.leave_shape)
    share = LAWS.leave_from + (1 - LAWS.leave_from) * np.minimum(time, 1)
    day = start + (share * LENGTH).astype("int64")
    leaves = time < 1
    stopped_on = np.where(leaves, np.maximum(day, enrolled_on), NEVER)
    formally = leaves & (random.random(n) < LAWS.leave_formally)
    delay = random.exponential(4.0, n).astype("int64")
    withdrawn_on = np.minimum(stopped_on + delay, start + LENGTH)
    return stopped_on, np.where(formally, withdrawn_on, NEVER)


def _rescued(
    config: CampusConfig, term: Term, place: tuple[int, int], people: People, due_on: np.ndarray
) -> np.ndarray:
    shape = (len(people), len(due_on))
    help_ = config.intervention
    if help_ is None:
        return np.zeros(shape, dtype=bool)
    random = generator(config.seed, Purpose.RESCUE, term.number, *place)
    lucky = random.random(shape) < help_.rescued
    return np.asarray(lucky & people.treated[:, None] & (due_on >= day_number(help_.on)))


def _submission_days(
    random: np.random.Generator, course: Course, engagement: np.ndarray, due_on: np.ndarray
) -> np.ndarray:
    shape = (len(engagement), len(due_on))
    early = LAWS.quiz_early * course.is_quiz
    is_exam = np.array([name == EXAM for name in course.categories])
    lag = (
        LAWS.late_mean
        + LAWS.late_by_engagement * engagement[:, None]
        + LAWS.late_noise * random.standard_normal(shape)
        - early * random.standard_exponential(shape) ** 2
    )
    lag = np.minimum(np.round(lag), LAWS.late_at_most).astype("int64")
    return np.asarray(due_on + np.where(is_exam, 0, lag))


def _outcomes(
    random: np.random.Generator, course: Course, score: np.ndarray, withdrawn_on: np.ndarray
) -> np.ndarray:
    """Return how enrollments end; `score` is 0 where work is missing."""
    grade = score @ (course.weight / course.weight.sum())
    grade = grade + LAWS.outcome_noise * random.standard_normal(len(grade))
    ends = [withdrawn_on < NEVER, grade >= LAWS.distinction_from, grade >= LAWS.pass_from]
    outcomes = [schema.Outcome.WITHDRAWN, schema.Outcome.DISTINCTION, schema.Outcome.PASS]
    return np.select(ends, [str(name) for name in outcomes], str(schema.Outcome.FAIL))


def _activity(
    random: np.random.Generator,
    start: int,
    engagement: np.ndarray,
    due_on: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return day and count of each week's work, (n, w); a count of 0 means none."""
    weeks = np.arange(LENGTH // 7)
    shape = (len(engagement), len(weeks))
    weekday = random.integers(0, 7, len(engagement))
    day = start + 7 * weeks + weekday[:, None]
    habit = (
        LAWS.active_intercept
        + LAWS.active_by_engagement * engagement
        + LAWS.active_noise * random.standard_normal(len(engagement))
    )
    active = random.random(shape, dtype="float32") < _sigmoid(habit)[:, None].astype("float32")
    is_due = np.isin(weeks, (due_on - start) // 7)
    log = (
        LAWS.count_intercept
        + LAWS.count_by_engagement * engagement[:, None].astype("float32")
        + (LAWS.count_before_due * is_due).astype("float32")
        + np.float32(LAWS.count_noise) * random.standard_normal(shape, dtype="float32")
    )
    count = np.exp(log).astype("int64")
    return day, np.where(active, count, 0)


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logit)))


def day_number(day: date) -> int:
    """Return `day` as days since 1970-01-01."""
    return (day - date(1970, 1, 1)).days
