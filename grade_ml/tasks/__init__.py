"""The former tasks under their names: a call runs one here, `.delay()` submits it to Dagster.

>>> from grade_ml import tasks
>>> tasks.train_advanced_ml_models.name
'train_advanced_ml_models'

docs/migration.md lists the replacement of each call, schedule and setting of the former module.
Importing this loads neither Dagster nor anything that computes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from enum import Enum, auto
from typing import Any, Concatenate, Generic, ParamSpec

from grade_ml.core.clock import Clock
from grade_ml.engine.enrollments import course_id as checked_course
from grade_ml.engine.enrollments import require_course, running_courses
from grade_ml.engine.enrollments import student_id as checked_student
from grade_ml.tasks.errors import (
    NotSubmitted,
    TaskFailed,
    TaskRevoked,
    TaskTimeout,
    UnknownTask,
    UnsupportedOption,
    WebserverRefused,
    WebserverUnavailable,
)
from grade_ml.tasks.handle import AsyncResult, new_id, result, submit, tags_of
from grade_ml.tasks.installation import Installation
from grade_ml.tasks.outcome import State, TaskResult

__all__ = [
    "AsyncResult",
    "NotSubmitted",
    "State",
    "Task",
    "TaskFailed",
    "TaskResult",
    "TaskRevoked",
    "TaskTimeout",
    "UnknownTask",
    "UnsupportedOption",
    "WebserverRefused",
    "WebserverUnavailable",
    "collect_external_data",
    "comprehensive_ml_maintenance",
    "generate_time_series_forecasts",
    "manage_ab_tests",
    "monitor_model_performance",
    "result",
    "run_ab_test_management_sync",
    "run_advanced_training_sync",
    "run_external_data_collection_sync",
    "run_model_monitoring_sync",
    "train_advanced_ml_models",
    "update_model_explanations",
]

P = ParamSpec("P")
#: An id of the application; a whole number means the same text.
Id = str | int
#: The only queue that there is, under its former name; runs of the daemon wait in it anyway.
QUEUE = "ml_tasks"


class _Over(Enum):
    """The partitions over which a job runs."""

    COURSES = auto()
    DAY = auto()
    NOTHING = auto()


class Task(Generic[P]):
    """A job under its former name.

    Called, it runs in this process, waits, and returns the result or raises `TaskFailed`;
    `delay` and `apply_async` submit it and return at once. Courses that are not next to each other
    need several runs, one for each unbroken stretch; these have one handle.
    """

    def __init__(
        self, courses: Callable[Concatenate[Installation, P], Iterable[str]], over: _Over
    ) -> None:
        self.name = courses.__name__
        self._courses, self._over = courses, over
        functools.update_wrapper(self, courses)
        _, *parameters = inspect.signature(courses).parameters.values()
        self.__signature__ = inspect.Signature(parameters, return_annotation=TaskResult.__name__)

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> TaskResult:
        """Run it here and wait for its end.

        Raises
        ------
        TaskFailed
            It failed; the error has the result.
        GradeMLError
            It could not begin: an unknown course or student, an empty gradebook.
        """
        installation = Installation.of_environment()
        courses = list(self._courses(installation, *args, **kwargs))
        from grade_ml.orchestration.build import build_defs
        from grade_ml.orchestration.instance import open_instance
        from grade_ml.orchestration.providers import providers_of
        from grade_ml.orchestration.running import run_job

        settings, clock, task_id = installation.settings, Clock(), new_id()
        definitions = build_defs(settings, *providers_of(settings), clock=clock)
        with open_instance(settings) as instance:
            report = run_job(
                settings,
                instance,
                self.name,
                courses,
                definitions=definitions,
                clock=clock,
                tags=tags_of(task_id),
            )
        several = f"/{len(report.run_ids)}" if len(report.run_ids) > 1 else ""
        return AsyncResult(task_id + several, installation).get(timeout=0)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult:
        """Submit it and return its handle.

        Raises
        ------
        UnknownCourse, UnknownStudent, NotEnrolled, NotSubmitted
            Nothing was submitted: the course, student or job does not exist, or not yet.
        WebserverUnavailable, WebserverRefused
            It could not be submitted.
        """
        installation = Installation.of_environment()
        courses = list(self._courses(installation, *args, **kwargs))
        keys = installation.webserver.partitions(self.name)
        day = installation.settings.date_at(Clock().now())
        return submit(installation, self.name, _spans(self._over, keys, courses, day))

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult:
        """Do what `delay(*args, **kwargs)` does; of Celery's options only the queue has a meaning.

        Raises
        ------
        UnsupportedOption
            Another option is given, or another queue than `ml_tasks`.
        """
        queue = options.pop("queue", None)
        given = [name for name, value in options.items() if value is not None]
        if queue not in (None, QUEUE):
            given.append(f"queue={queue!r:.60}")
        if given:
            raise UnsupportedOption(
                f"Tasks take no {', '.join(sorted(given))}.",
                "Leave it out; docs/migration.md names its replacement.",
            )
        return self.delay(*args, **(kwargs or {}))


def _spans(over: _Over, keys: list[str], courses: list[str], day: date) -> list[Mapping[str, str]]:
    """Return the tags of the partitions of each run.

    Raises
    ------
    NotSubmitted
        A partition does not exist yet: Dagster would take the run, and it would fail.
    """
    from grade_ml.orchestration.ranges import PARTITION, range_tags, ranges

    if over is _Over.NOTHING:
        return [{}]
    if over is _Over.DAY:
        return [{PARTITION: day.isoformat()}]
    if missing := sorted(set(courses) - set(keys)):
        raise NotSubmitted(
            f"Dagster has no partition of the course {', '.join(missing[:20])} yet.",
            "The sensor course_catalog adds it within a minute; check that it is switched on.",
        )
    if not keys:
        raise NotSubmitted("The gradebook has no course yet.", "Load one with `grade-ml load`.")
    return [range_tags(*span) for span in ranges(keys, courses or keys)]


def _task(
    over: _Over,
) -> Callable[[Callable[Concatenate[Installation, P], Iterable[str]]], Task[P]]:
    """Make a task of a function that returns its courses; no course means all of them."""
    return lambda courses: Task(courses, over)


def _checked(installation: Installation, course_id: Id | None) -> Iterable[str]:
    if course_id is None:
        return ()
    course = checked_course(course_id)
    with installation.connection() as connection:
        require_course(connection, course)
    return (course,)


@_task(_Over.DAY)
def collect_external_data(installation: Installation) -> Iterable[str]:
    """Collect the data of the external sources for today."""
    return ()


@_task(_Over.COURSES)
def train_advanced_ml_models(
    installation: Installation, course_id: Id | None = None
) -> Iterable[str]:
    """Train the ensemble of all courses, and the corrections of one course or of all."""
    return _checked(installation, course_id)


@_task(_Over.COURSES)
def generate_time_series_forecasts(
    installation: Installation, user_id: Id | None = None
) -> Iterable[str]:
    """Forecast remaining scores, in the running courses of one student or in all courses.

    Forecasts are made by course, so those of the student's classmates are renewed, too. They are
    stored: `PredictiveAnalyticsEngine.generate_time_series_forecast` reads those of the student.
    The id is neither submitted nor stored.
    """
    if user_id is None:
        return ()
    student, today = checked_student(user_id), installation.settings.date_at(Clock().now())
    with installation.connection() as connection:
        return running_courses(connection, student, today)


@_task(_Over.COURSES)
def monitor_model_performance(installation: Installation) -> Iterable[str]:
    """Measure drift, errors and health of each course's model."""
    return ()


@_task(_Over.NOTHING)
def manage_ab_tests(installation: Installation) -> Iterable[str]:
    """Evaluate the running experiments, promote, roll back, open new experiments."""
    return ()


@_task(_Over.COURSES)
def update_model_explanations(
    installation: Installation, course_id: Id | None = None
) -> Iterable[str]:
    """Explain the current predictions of one course or of all, if something changed."""
    return _checked(installation, course_id)


@_task(_Over.NOTHING)
def comprehensive_ml_maintenance(installation: Installation) -> Iterable[str]:
    """Run the jobs of Sunday morning one after the other, even if some of them fail."""
    return ()


def run_external_data_collection_sync() -> TaskResult:
    """Run `collect_external_data` here."""
    return collect_external_data()


def run_advanced_training_sync(course_id: Id | None = None) -> TaskResult:
    """Run `train_advanced_ml_models` here."""
    return train_advanced_ml_models(course_id)


def run_model_monitoring_sync() -> TaskResult:
    """Run `monitor_model_performance` here."""
    return monitor_model_performance()


def run_ab_test_management_sync() -> TaskResult:
    """Run `manage_ab_tests` here."""
    return manage_ab_tests()
