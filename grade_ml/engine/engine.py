"""`PredictiveAnalyticsEngine`: the question "how will this student do in this course?", answered.

It answers from what is stored, else has it computed; each is done elsewhere in this room. Here
stand the calls, their order, and what becomes of an answer while PostgreSQL is away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.errors import ArtifactError, GradeMLError, NotReadyError
from grade_ml.core.settings import Settings
from grade_ml.engine.answers import (
    Answered,
    Answers,
    GradePrediction,
    ModelExplanation,
    Refusal,
    Status,
)
from grade_ml.engine.bounds import Gathering, Recent, Slots
from grade_ml.engine.errors import NoModel, Overloaded, StorageUnavailable, typed
from grade_ml.engine.loads import LoadLog
from grade_ml.engine.settings import LIMITS, Limits
from grade_ml.engine.standing import course_id as checked_course
from grade_ml.engine.standing import require_course, running, standings
from grade_ml.engine.standing import student_id as checked_student

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from grade_ml.early_warning.student import StudentForecast
    from grade_ml.engine.computing import Classes
    from grade_ml.engine.explaining import Wish
    from grade_ml.engine.loads import Loads
    from grade_ml.serving.models import Served

#: Ids of the application: texts, or whole numbers that stand for the same texts.
Id = str | int
_Remembered = TypeVar("_Remembered")


class PredictiveAnalyticsEngine:
    """Answers questions about enrollments; one engine serves all threads of a process.

    Of several sections of a course the student's latest counts. Without `as_of` a question is of
    today, or of GRADE_ML_AS_OF. Everything is known as of the end of that day, by the same code as
    in training; of a past day, what happened later is not told; only the model is today's.

    Parameters
    ----------
    settings
        The installation; without them the environment's. Its database is started where it is
        embedded.
    limits
        How much is computed at once, and how long what is known is relied on.
    clock
        Tells what day it is.

    Raises
    ------
    StorageUnavailable
        The database does not answer.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        limits: Limits = LIMITS,
        clock: Clock | None = None,
    ) -> None:
        # Here and below: an application that imports the engine may never ask it.
        from grade_ml.engine.champions import Champions
        from grade_ml.gradebook.attributes import declarations
        from grade_ml.gradebook.institution import read as read_institution
        from grade_ml.registry.registry import Registry

        self._settings = settings or Settings.from_environment()
        self._limits, self._clock = limits, clock or Clock()
        with typed():
            urls = database.start(self._settings)
            self._engine = database.migrated(urls.grade_ml)
        self._institution = read_institution(self._settings.institution)
        self._declared = declarations(self._institution)
        self._registry = Registry.of_installation(self._settings, urls.mlflow, self._declared)
        self._champions = Champions(self._registry, limits.champion_seconds)
        self._loads = LoadLog(self._declared)
        self._slots = Slots(limits.at_once, limits.waiting, limits.waiting_seconds)
        self._gathering: Gathering[GradePrediction, GradePrediction] = Gathering(self._slots)
        self._kept: Recent[tuple[datetime, Any]] = Recent(limits.kept_answers)

    @cached_property
    def _classes(self) -> Classes:
        from grade_ml.engine.computing import Classes

        return Classes(self._declared, self._limits.classes)

    def close(self) -> None:
        """Give the database connections back."""
        self._engine.dispose()

    def __enter__(self) -> PredictiveAnalyticsEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict_final_grade(
        self, user_id: Id, course_id: Id, *, as_of: date | None = None
    ) -> GradePrediction:
        """Return what is known and expected of the student's grade in the course.

        Raises
        ------
        UnknownStudent, UnknownCourse, NotEnrolled
            There is nobody to answer for; the error says why.
        NoModel
            No model has been trained, and no section of the course has ended.
        Overloaded, StorageUnavailable
            Nothing can be computed at the moment.
        """
        student, course = checked_student(user_id), checked_course(course_id)

        def ask() -> GradePrediction:
            with self._reading() as (connection, loads):
                one = self._standing(connection, student, course, as_of)
                known = self._known(connection, [one], loads)
            if known:
                return known[0]
            return self._gathering.of((one.section_id, one.as_of), one, self._computed)

        return self._remembering(("prediction", student, course, as_of), ask, _noted)

    def predict_final_grades(
        self,
        course_id: Id | None = None,
        user_ids: Collection[Id] | None = None,
        *,
        as_of: date | None = None,
    ) -> Answers[GradePrediction]:
        """Return the predictions for many students of a course.

        Parameters
        ----------
        course_id
            None: every course.
        user_ids
            None: everyone who takes part in a section that runs on the day. Who has no answer is
            refused by name, and does not stop the others.

        Raises
        ------
        UnknownCourse, Overloaded, StorageUnavailable
            As `predict_final_grade` does.
        ValueError
            Students are named, and no course.
        """
        asked, refused = self._asked(course_id, user_ids, as_of)
        with self._reading() as (connection, loads):
            answers = self._known(connection, asked, loads)
        known = {(one.section_id, one.student_id) for one in answers}
        rest = [one for one in asked if (one.section_id, one.student_id) not in known]
        for _, some in groupby(rest, lambda one: one.section_id):
            own = list(some)
            try:
                with self._slots.one():
                    answers += self._computed(own)
            except NoModel as error:
                refused += [_refusal(one.student_id, error) for one in own]
        answers.sort(key=lambda one: (one.section_id, one.student_id))
        return Answers(tuple(answers), tuple(refused))

    def get_model_explanations(  # noqa: PLR0913 - what is asked, of whom, and for whom
        self,
        user_id: Id,
        course_id: Id,
        *,
        as_of: date | None = None,
        reader: str = "adviser",
        language: str = "en",
        pairs: int = 0,
        goal: float | None = None,
    ) -> ModelExplanation:
        """Return the prediction, and why it says what it says.

        Parameters
        ----------
        reader, language
            For whom and in which language it is told in sentences.
        pairs
            How many pairs of features are asked for that move the grade together.
        goal
            Asks what the student could still do to bring the grade to so many points, 0-100.

        Raises
        ------
        ConfigurationError
            There is no such reader or language, or the goal is not between 0 and 100.
        NotReadyError
            Pairs are asked for, and the baseline serves or shap is not installed.
        GradeMLError
            As `predict_final_grade` does.
        """
        from grade_ml.engine.explaining import stored_answer, wish_of

        student, course = checked_student(user_id), checked_course(course_id)
        wish = wish_of(reader, language, pairs, goal)

        def ask() -> ModelExplanation:
            with self._reading() as (connection, loads):
                one = self._standing(connection, student, course, as_of)
                known = self._known(connection, [one], loads)
                if known and one.status is not Status.RUNNING:
                    return ModelExplanation(known[0], wish.reader, wish.language)
                told = stored_answer(connection, known[0], wish) if known else None
            return told or self._explained(one, wish)

        key = ("explanation", student, course, as_of, wish)
        return self._remembering(key, ask, _noted_beside)

    def get_model_explanations_of(
        self,
        course_id: Id,
        user_ids: Collection[Id] | None = None,
        *,
        as_of: date | None = None,
        reader: str = "adviser",
        language: str = "en",
    ) -> Answers[ModelExplanation]:
        """Return `get_model_explanations` for many students, as `predict_final_grades` does."""

        def ask(student: str) -> ModelExplanation:
            return self.get_model_explanations(
                student, course_id, as_of=as_of, reader=reader, language=language
            )

        return self._of_each(course_id, user_ids, as_of, ask)

    def generate_time_series_forecast(
        self, user_id: Id, course_id: Id, *, as_of: date | None = None
    ) -> StudentForecast:
        """Return what is expected of the remaining work in the student's latest section.

        It is what was forecast and stored on the day, or on the newest day before it.

        Raises
        ------
        NotReadyError
            The enrollment is not running on that day, or the course was never forecast up to then.
        ArtifactError
            The model's files do not match their manifest.
        SourceError
            The university's own table of interventions has errors.
        GradeMLError
            As `predict_final_grade` does.
        """
        from grade_ml.early_warning.interventions import DEFAULT_TABLE, read_table
        from grade_ml.early_warning.loading import load_enrollment
        from grade_ml.early_warning.student import student_forecast
        from grade_ml.registry.workspace import Workspace

        student, course = checked_student(user_id), checked_course(course_id)
        rules = read_table(self._settings.interventions or DEFAULT_TABLE)

        def ask() -> StudentForecast:
            with self._slots.one():
                with self._reading() as (connection, _):
                    one = self._standing(connection, student, course, as_of)
                    if one.status is not Status.RUNNING:
                        raise NotReadyError(
                            f"{one.in_words()} So there is nothing to forecast.",
                            "Ask about a day on which the student takes part.",
                        )
                    workspace = Workspace(
                        connection,
                        self._registry,
                        self._settings.storage_root,
                        one.as_of,
                        self._clock.now(),
                        self._institution,
                    )
                    known = load_enrollment(workspace, course, one.section_id, student)
                return student_forecast(known, rules, workspace.seed)

        return self._remembering(("forecast", student, course, as_of), ask, _noted_forecast)

    def generate_time_series_forecasts(
        self,
        course_id: Id,
        user_ids: Collection[Id] | None = None,
        *,
        as_of: date | None = None,
    ) -> Answers[StudentForecast]:
        """Return `generate_time_series_forecast` for many, as `predict_final_grades` does."""

        def ask(student: str) -> StudentForecast:
            return self.generate_time_series_forecast(student, course_id, as_of=as_of)

        return self._of_each(course_id, user_ids, as_of, ask)

    @contextmanager
    def _opened(self) -> Iterator[Connection]:
        """Open one transaction in which everything is of one moment."""
        with typed(), database.reachable(self._engine) as connection:
            connection.execute(_ONE_MOMENT)
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[tuple[Connection, Loads]]:
        with self._opened() as connection:
            loads = self._loads.read(connection)
            self._champions.refresh(connection)
            yield connection, loads

    def _day(self, as_of: date | None) -> date:
        if as_of is None:
            return self._settings.date_at(self._clock.now())
        return as_of.date() if isinstance(as_of, datetime) else as_of

    def _standing(
        self, connection: Connection, student: str, course: str, as_of: date | None
    ) -> GradePrediction:
        found, refused = standings(connection, [student], course, self._day(as_of))
        for error in refused.values():
            raise error
        return found[student]

    def _asked(
        self, course_id: Id | None, user_ids: Collection[Id] | None, as_of: date | None
    ) -> tuple[list[GradePrediction], list[Refusal]]:
        """Return where those of whom is asked stand, by section, and who is refused."""
        if user_ids is not None and course_id is None:
            raise ValueError("Name the course of the students, too.")
        course = None if course_id is None else checked_course(course_id)
        refused, students = [], []
        for user in user_ids or ():
            try:
                students.append(checked_student(user))
            except GradeMLError as error:
                refused.append(_refusal(_shortened(user), error))
        with self._opened() as connection:
            if course is not None:
                require_course(connection, course)
            if user_ids is None:
                courses = None if course is None else [course]
                return running(connection, courses, self._day(as_of)), refused
            assert course is not None
            found, errors = standings(
                connection, list(dict.fromkeys(students)), course, self._day(as_of)
            )
        refused += [_refusal(student, error) for student, error in errors.items()]
        return sorted(found.values(), key=lambda one: (one.section_id, one.status)), refused

    def _of_each(
        self,
        course_id: Id,
        user_ids: Collection[Id] | None,
        as_of: date | None,
        ask: Callable[[str], Answered],
    ) -> Answers[Answered]:
        asked, refused = self._asked(course_id, user_ids, as_of)
        answers = []
        for one in asked:
            try:
                answers.append(ask(one.student_id))
            except (Overloaded, StorageUnavailable):
                raise
            except GradeMLError as error:
                refused.append(_refusal(one.student_id, error))
        return Answers(tuple(answers), tuple(refused))

    def _known(
        self, connection: Connection, asked: Sequence[GradePrediction], loads: Loads
    ) -> list[GradePrediction]:
        """Return the answers for those who need no computation."""
        from grade_ml.engine import stored

        open_ones = [one for one in asked if one.status is Status.RUNNING]
        found: list[GradePrediction] = []
        if open_ones:
            found += stored.predictions(connection, open_ones, loads, self._champions).values()
        for one in asked:
            if one.status is Status.UPCOMING:
                found.append(one)
            elif one.status is not Status.RUNNING:
                from grade_ml.engine.computing import recorded

                found.append(recorded(connection, one, self._institution))
        return [self._dated(one, loads) for one in found]

    def _computed(self, asked: Sequence[GradePrediction]) -> list[GradePrediction]:
        """Return the predictions of running enrollments in one section, computed now."""
        from grade_ml.engine.computing import predicted

        with typed():
            served = self._serving(asked[0].course_id)
            if isinstance(served, str):
                return self._by_mean(asked, served)
            rows, loads = self._classes.rows(self._reading, asked, served)
            figures = served.model.predict(rows) if len(rows) else rows
            found = predicted(asked, served, rows, figures)
        return [self._dated(one, loads) for one in found]

    def _by_mean(self, asked: Sequence[GradePrediction], why: str) -> list[GradePrediction]:
        from grade_ml.engine.computing import by_mean

        with self._reading() as (connection, loads):
            found = by_mean(connection, asked, self._institution, why)
        return [self._dated(one, loads) for one in found]

    def _explained(self, one: GradePrediction, wish: Wish) -> ModelExplanation:
        from grade_ml.engine import stored
        from grade_ml.engine.computing import predicted
        from grade_ml.engine.explaining import carried_on, explained, state_of_row
        from grade_ml.explanations.attribution import explain as attributed

        with self._slots.one(), typed():
            served = self._serving(one.course_id)
            if isinstance(served, str):
                (mean,) = self._by_mean([one], served)
                return ModelExplanation(mean, wish.reader, wish.language)
            row, loads = self._classes.rows(self._reading, [one], served)
            if row.empty:
                (nothing,) = predicted([one], served, row, row)
                return ModelExplanation(nothing, wish.reader, wish.language)
            with self._opened() as connection:
                carried = carried_on(connection, one) if wish.goal is not None else None
                state = state_of_row(served, row, self._registry.pseudonyms)
                texts = stored.narratives(connection, state)
            parts = attributed(served.model, row)
            (prediction,) = predicted([one], served, row, parts.predictions)
            return explained(
                self._dated(prediction, loads), served, row, parts, carried, texts, wish
            )

    def _serving(self, course: str) -> Served | str:
        """Return the model that serves a course; a text: there is none, and why."""
        try:
            return self._champions.serving(course)
        except (NotReadyError, ArtifactError) as error:
            return str(error)

    def _dated(self, one: GradePrediction, loads: Loads) -> GradePrediction:
        loaded_at = loads.loaded_at
        if loaded_at is None:
            return one
        hours = (self._clock.now() - loaded_at).total_seconds() / 3600
        return replace(one, records_from=loaded_at, age_hours=round(max(hours, 0.0), 2))

    def _remembering(
        self,
        key: Hashable,
        ask: Callable[[], _Remembered],
        noted: Callable[[_Remembered, str], _Remembered],
    ) -> _Remembered:
        """Return the answer; while PostgreSQL is away, that which was given last, and say so."""
        try:
            answer = ask()
        except StorageUnavailable:
            kept = self._kept.get(key, self._limits.kept_seconds)
            if kept is None:
                raise
            moment, before = kept[1]
            then = f"{moment:%Y-%m-%d at %H:%M} UTC"
            reason = f"PostgreSQL does not answer; this was answered on {then}"
            return noted(before, reason)
        self._kept.put(key, (self._clock.now(), answer))
        return answer


#: What is read for one answer is of one moment, whatever is loaded meanwhile.
_ONE_MOMENT = sa.text("set transaction isolation level repeatable read, read only")


def _noted(answer: GradePrediction, reason: str) -> GradePrediction:
    return replace(answer, degraded=(*answer.degraded, reason))


def _noted_beside(answer: ModelExplanation, reason: str) -> ModelExplanation:
    return replace(answer, prediction=_noted(answer.prediction, reason))


def _noted_forecast(answer: StudentForecast, reason: str) -> StudentForecast:
    return replace(answer, degraded=(*answer.degraded, reason))


def _refusal(student: str, error: GradeMLError) -> Refusal:
    return Refusal(student, type(error).__name__, error.message, error.remedy)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


#: Characters of an id that cannot be one, as a refusal repeats it.
_LONGEST_SHOWN = 80
