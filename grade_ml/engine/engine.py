"""`PredictiveAnalyticsEngine` answers the question "how will this student do in this course?".

It answers from what is stored, else computes; other modules of this package do both. This module
contains the calls, their order, and the answers while PostgreSQL is unavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

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
    refusal,
)
from grade_ml.engine.bounds import Gathering, Slots
from grade_ml.engine.enrollments import course_id as checked_course
from grade_ml.engine.enrollments import require_course, running, standings
from grade_ml.engine.enrollments import student_id as checked_student
from grade_ml.engine.errors import NoModel, Overloaded, StorageUnavailable, typed
from grade_ml.engine.kept import Kept, Roster, noted, noted_beside, whom
from grade_ml.engine.loads import LoadLog
from grade_ml.engine.settings import LIMITS, Limits

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from grade_ml.early_warning.student import StudentForecast
    from grade_ml.engine.computing import Classes
    from grade_ml.engine.explaining import ExplanationRequest
    from grade_ml.engine.forecasting import Forecasting
    from grade_ml.engine.loads import Loads
    from grade_ml.serving.models import Served

#: Ids of the application: texts, or whole numbers that mean the same texts.
Id = str | int
_Dated = TypeVar("_Dated", GradePrediction, "StudentForecast")


class PredictiveAnalyticsEngine:
    """Answers questions about enrollments; one engine serves all threads of a process.

    Of several sections of a course the student's latest counts. Without `as_of` a question is
    about today, or about GRADE_ML_AS_OF. Answers use the records up to the end of that day, by the
    same code as in training. For a past day they use nothing that happened later, except that the
    model is today's.

    Parameters
    ----------
    settings
        The installation; without them the environment's. An embedded database is started.
    limits
        How much is computed at once, and how long earlier answers and champions are used.
    clock
        Returns the current day and time.

    Raises
    ------
    StorageUnavailable
        The database does not answer.
    MissingLibraryError
        A library that belongs to grade-ml is not installed.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        limits: Limits = LIMITS,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings or Settings.from_environment()
        self._limits, self._clock = limits, clock or Clock()
        with typed():
            # Here and below: an application that imports the engine may never call it.
            from grade_ml.engine.champions import Champions
            from grade_ml.gradebook.attributes import declarations
            from grade_ml.gradebook.institution import read as read_institution
            from grade_ml.registry.registry import Registry

            urls = database.start(self._settings)
            self._engine = database.migrated(urls.grade_ml).execution_options(**_ONE_MOMENT)
        self._institution = read_institution(self._settings.institution)
        self._declared = declarations(self._institution)
        self._registry = Registry.of_installation(self._settings, urls.mlflow, self._declared)
        self._champions = Champions(self._registry, limits.champion_seconds)
        self._loads = LoadLog(self._declared)
        self._slots = Slots(limits.at_once, limits.waiting, limits.waiting_seconds)
        self._gathering: Gathering[GradePrediction, GradePrediction] = Gathering(self._slots)
        calls, seconds = limits.kept_calls, limits.kept_seconds
        self._predictions: Kept[GradePrediction] = Kept(
            limits.kept_predictions, calls, seconds, self._clock, noted
        )
        self._explanations: Kept[ModelExplanation] = Kept(
            limits.kept_answers, calls, seconds, self._clock, noted_beside
        )
        self._forecasts: Kept[StudentForecast] = Kept(
            limits.kept_answers, calls, seconds, self._clock, noted
        )

    @cached_property
    def _classes(self) -> Classes:
        from grade_ml.engine.computing import Classes

        return Classes(self._declared, self._institution, self._limits.classes)

    @cached_property
    def _forecasting(self) -> Forecasting:
        from grade_ml.engine.forecasting import Forecasting

        return Forecasting(self._registry, self._classes, self._settings.storage_root)

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
            There is no such enrollment; the error gives the reason.
        NoModel
            No model has been trained, and no section of the course has ended.
        Overloaded, StorageUnavailable
            Nothing can be computed at the moment.
        """
        student, course = checked_student(user_id), checked_course(course_id)

        def compute() -> GradePrediction:
            with self._reading() as (connection, loads):
                enrollment = self._standing(connection, student, course, as_of)
                known = self._known(connection, [enrollment], loads)
            if known:
                return known[0]
            return self._gathering.of(
                (enrollment.section_id, enrollment.as_of), enrollment, self._computed
            )

        return self._predictions.one((student, course, as_of), compute)

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
            None for every course.
        user_ids
            None for all students who take part in a section that runs on the day. A student
            without an answer is listed in `refused`, and does not stop the others.

        Raises
        ------
        UnknownCourse, Overloaded, StorageUnavailable
            As `predict_final_grade` does.
        ValueError
            Students are named, and no course.
        """

        def compute() -> tuple[Roster, Answers[GradePrediction]]:
            enrollments, refused = self._asked(course_id, user_ids, as_of)
            roster = Roster.of(enrollments, refused)
            with self._reading() as (connection, loads):
                answers = self._known(connection, enrollments, loads)
            known = {(answer.section_id, answer.student_id) for answer in answers}
            rest = [
                enrollment
                for enrollment in enrollments
                if (enrollment.section_id, enrollment.student_id) not in known
            ]
            for _, group in groupby(rest, lambda enrollment: enrollment.section_id):
                own = list(group)
                try:
                    with self._slots.one():
                        answers += self._computed(own)
                except NoModel as error:
                    refused += [refusal(enrollment.student_id, error) for enrollment in own]
            answers.sort(key=lambda answer: (answer.section_id, answer.student_id))
            for result in answers:
                self._predictions.put((result.student_id, result.course_id, as_of), result)
            return roster, Answers(tuple(answers), tuple(refused))

        call = (course_id, whom(user_ids), as_of)
        return self._predictions.many(call, compute, lambda *of_one: (*of_one, as_of))

    def get_model_explanations(  # noqa: PLR0913 - the enrollment, the reader, and the parts
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
        """Return the prediction and its explanation.

        Parameters
        ----------
        reader, language
            For whom and in which language the sentences are.
        pairs
            How many pairs of features that move the grade together are returned.
        goal
            Points, 0-100; adds what the student could still do to bring the grade there.

        Raises
        ------
        ConfigurationError
            There is no such reader or language, or the goal is not between 0 and 100.
        NotReadyError
            Pairs are requested, and the baseline serves or shap is not installed.
        GradeMLError
            As `predict_final_grade` does.
        """
        from grade_ml.engine.explaining import explanation_request, stored_answer

        student, course = checked_student(user_id), checked_course(course_id)
        request = explanation_request(reader, language, pairs, goal)

        def compute() -> ModelExplanation:
            with self._reading() as (connection, loads):
                enrollment = self._standing(connection, student, course, as_of)
                known = self._known(connection, [enrollment], loads)
                if known and enrollment.status is not Status.RUNNING:
                    return ModelExplanation(known[0], request.reader, request.language)
                explanation = stored_answer(connection, known[0], request) if known else None
            return explanation or self._explained(enrollment, request)

        return self._explanations.one((student, course, as_of, request), compute)

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
        from grade_ml.engine.explaining import explanation_request

        request = explanation_request(reader, language, 0, None)

        def explain(student: str) -> ModelExplanation:
            return self.get_model_explanations(
                student, course_id, as_of=as_of, reader=reader, language=language
            )

        def compute_all() -> tuple[Roster, Answers[ModelExplanation]]:
            return self._of_each(course_id, user_ids, as_of, explain)

        call = (course_id, whom(user_ids), as_of, request)
        return self._explanations.many(call, compute_all, lambda *of_one: (*of_one, as_of, request))

    def generate_time_series_forecast(
        self, user_id: Id, course_id: Id, *, as_of: date | None = None
    ) -> StudentForecast:
        """Return the forecast of the remaining work in the student's latest section.

        It is the stored forecast of the day if that is as new as the records of the student's
        courses; otherwise it is computed from the student's own results and the level of the
        class. If it cannot be computed, the newest stored forecast is returned, and `degraded`
        gives the reason. The interventions are those of the newest stored plan.

        Raises
        ------
        NotReadyError
            The enrollment is not running on that day, or no model was trained only on sections
            that had ended by then, and the course had no forecast by then.
        ArtifactError
            The model's files do not match their manifest.
        SourceError
            The university's own table of interventions has errors.
        GradeMLError
            As `predict_final_grade` does.
        """
        student, course = checked_student(user_id), checked_course(course_id)

        def compute() -> StudentForecast:
            with self._reading() as (connection, _):
                enrollment = self._standing(connection, student, course, as_of)
            _require_running(enrollment)
            return self._forecast([enrollment])[0]

        return self._forecasts.one((student, course, as_of), compute)

    def generate_time_series_forecasts(
        self,
        course_id: Id,
        user_ids: Collection[Id] | None = None,
        *,
        as_of: date | None = None,
    ) -> Answers[StudentForecast]:
        """Return `generate_time_series_forecast` for many, as `predict_final_grades` does."""

        def compute() -> tuple[Roster, Answers[StudentForecast]]:
            enrollments, refused = self._asked(course_id, user_ids, as_of)
            roster = Roster.of(enrollments, refused)
            answers: list[StudentForecast] = []
            for _, group in groupby(
                enrollments, lambda enrollment: (enrollment.section_id, enrollment.status)
            ):
                own = list(group)
                try:
                    _require_running(own[0])
                    answers += self._forecast(own)
                except (Overloaded, StorageUnavailable):
                    raise
                except GradeMLError as error:
                    refused += [refusal(enrollment.student_id, error) for enrollment in own]
            for result in answers:
                self._forecasts.put((result.student_id, result.course_id, as_of), result)
            return roster, Answers(tuple(answers), tuple(refused))

        call = (course_id, whom(user_ids), as_of)
        return self._forecasts.many(call, compute, lambda *of_one: (*of_one, as_of))

    @contextmanager
    def _opened(self) -> Iterator[Connection]:
        """Open one transaction, in which all reads see the same moment."""
        with typed(), database.reachable(self._engine) as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[tuple[Connection, Loads]]:
        with self._opened() as connection:
            loads = self._loads.read(connection)
            self._champions.refresh(connection)
            yield connection, loads

    def _day(self, as_of: date | None) -> date:
        day = as_of.date() if isinstance(as_of, datetime) else as_of
        return self._settings.date_at(self._clock.now(), day)

    def _standing(
        self, connection: Connection, student: str, course: str, as_of: date | None
    ) -> GradePrediction:
        enrollments, refused = standings(connection, [student], course, self._day(as_of))
        for error in refused.values():
            raise error
        return enrollments[student]

    def _asked(
        self, course_id: Id | None, user_ids: Collection[Id] | None, as_of: date | None
    ) -> tuple[list[GradePrediction], list[Refusal]]:
        """Return the requested enrollments, sorted by section, and the refused students."""
        if user_ids is not None and course_id is None:
            raise ValueError("Name the course of the students, too.")
        course = None if course_id is None else checked_course(course_id)
        refused, students = [], []
        for user in user_ids or ():
            try:
                students.append(checked_student(user))
            except GradeMLError as error:
                refused.append(refusal(_shortened(user), error))
        with self._opened() as connection:
            if course is not None:
                require_course(connection, course)
            if user_ids is None:
                courses = None if course is None else [course]
                return running(connection, courses, self._day(as_of)), refused
            assert course is not None
            enrollments, errors = standings(
                connection, list(dict.fromkeys(students)), course, self._day(as_of)
            )
        refused += [refusal(student, error) for student, error in errors.items()]
        return sorted(
            enrollments.values(), key=lambda enrollment: (enrollment.section_id, enrollment.status)
        ), refused

    def _of_each(
        self,
        course_id: Id,
        user_ids: Collection[Id] | None,
        as_of: date | None,
        compute: Callable[[str], Answered],
    ) -> tuple[Roster, Answers[Answered]]:
        enrollments, refused = self._asked(course_id, user_ids, as_of)
        roster = Roster.of(enrollments, refused)
        answers = []
        for enrollment in enrollments:
            try:
                answers.append(compute(enrollment.student_id))
            except (Overloaded, StorageUnavailable):
                raise
            except GradeMLError as error:
                refused.append(refusal(enrollment.student_id, error))
        return roster, Answers(tuple(answers), tuple(refused))

    def _known(
        self, connection: Connection, enrollments: Sequence[GradePrediction], loads: Loads
    ) -> list[GradePrediction]:
        """Return the answers for the enrollments that need no computation."""
        from grade_ml.engine import stored

        ongoing = [candidate for candidate in enrollments if candidate.status is Status.RUNNING]
        answers: list[GradePrediction] = []
        if ongoing:
            answers += stored.predictions(connection, ongoing, loads, self._champions).values()
        for enrollment in enrollments:
            if enrollment.status is Status.UPCOMING:
                answers.append(enrollment)
            elif enrollment.status is not Status.RUNNING:
                from grade_ml.engine.computing import recorded

                answers.append(recorded(connection, enrollment, self._institution))
        return [self._dated(answer, loads) for answer in answers]

    def _computed(self, enrollments: Sequence[GradePrediction]) -> list[GradePrediction]:
        """Return the predictions of running enrollments in one section, computed now."""
        from grade_ml.engine.computing import predicted

        with typed():
            served = self._serving(enrollments[0].course_id)
            if isinstance(served, str):
                return self._by_mean(enrollments, served)
            known = self._classes.rows(self._reading, enrollments, served.model.features)
            rows = known.rows
            figures = served.model.predict(rows) if len(rows) else rows
            redesigned = self._redesigned(enrollments[0])
            predictions = predicted(enrollments, served, rows, figures, redesigned)
        return [self._dated(prediction, known.loads) for prediction in predictions]

    def _by_mean(self, enrollments: Sequence[GradePrediction], why: str) -> list[GradePrediction]:
        from grade_ml.engine.computing import by_mean

        with self._reading() as (connection, loads):
            predictions = by_mean(connection, enrollments, self._institution, why)
        return [self._dated(prediction, loads) for prediction in predictions]

    def _explained(
        self, enrollment: GradePrediction, request: ExplanationRequest
    ) -> ModelExplanation:
        from grade_ml.engine import stored
        from grade_ml.engine.computing import predicted
        from grade_ml.engine.explaining import explained, state_of_row
        from grade_ml.explanations.attribution import explain as attributed

        with self._slots.one(), typed():
            served = self._serving(enrollment.course_id)
            if isinstance(served, str):
                (mean,) = self._by_mean([enrollment], served)
                return ModelExplanation(mean, request.reader, request.language)
            known = self._classes.rows(
                self._reading, [enrollment], served.model.features, records=request.goal is not None
            )
            row = known.rows
            if row.empty:
                (nothing,) = predicted([enrollment], served, row, row, {})
                return ModelExplanation(nothing, request.reader, request.language)
            with self._opened() as connection:
                state = state_of_row(served, row, self._registry.pseudonyms)
                texts = stored.narratives(connection, state)
            parts = attributed(served.model, row)
            redesigned = self._redesigned(enrollment)
            (prediction,) = predicted([enrollment], served, row, parts.predictions, redesigned)
            return explained(
                self._dated(prediction, known.loads),
                served,
                row,
                parts,
                known.records,
                texts,
                request,
            )

    def _forecast(self, enrollments: Sequence[GradePrediction]) -> list[StudentForecast]:
        """Return the forecasts of running enrollments in one section, on one day."""
        from grade_ml.early_warning.interventions import DEFAULT_TABLE, read_table
        from grade_ml.early_warning.student import student_forecast

        rules = read_table(self._settings.interventions or DEFAULT_TABLE)
        today = enrollments[0].as_of == self._day(None)
        with self._slots.one(), typed():
            return [
                self._dated(student_forecast(known, rules, seed=0), loads)
                for known, loads in self._forecasting.of(self._reading, enrollments, today=today)
            ]

    def _redesigned(self, enrollment: GradePrediction) -> dict[str, str]:
        """Return what redesigned sections of the course have other than before."""
        from grade_ml.features.store import Frames

        root, pseudonyms = self._settings.storage_root, self._registry.pseudonyms
        return Frames(root, enrollment.as_of, pseudonyms).redesigned([enrollment.course_id])

    def _serving(self, course: str) -> Served | str:
        """Return the model that serves a course, or the reason why there is none."""
        try:
            return self._champions.serving(course)
        except (NotReadyError, ArtifactError) as error:
            return str(error)

    def _dated(self, answer: _Dated, loads: Loads) -> _Dated:
        loaded_at = loads.loaded_at
        if loaded_at is None:
            return answer
        hours = (self._clock.now() - loaded_at).total_seconds() / 3600
        return replace(answer, records_from=loaded_at, age_hours=round(max(hours, 0.0), 2))


#: All reads of one answer see the same moment, even if a load commits meanwhile.
_ONE_MOMENT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def _require_running(enrollment: GradePrediction) -> None:
    if enrollment.status is not Status.RUNNING:
        raise NotReadyError(
            f"{enrollment.in_words()} So there is nothing to forecast.",
            "Ask about a day on which the student takes part.",
        )


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


#: Characters of an invalid id that a refusal repeats.
_LONGEST_SHOWN = 80
