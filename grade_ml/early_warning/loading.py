"""What early warning reads: panels of a day, its stored forecasts, and the risk models behind them.

Nothing is computed here; `store` reads and writes the tables.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd
from sqlalchemy import Connection

from grade_ml.core.errors import NotReadyError
from grade_ml.early_warning import store, tables
from grade_ml.early_warning.grade_paths import STATE
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.early_warning.settings import SETTINGS
from grade_ml.features.store import Frames
from grade_ml.forecasting import store as forecasts
from grade_ml.forecasting.contract import Panel
from grade_ml.forecasting.loading import Running, running, stale
from grade_ml.forecasting.panels import panels
from grade_ml.forecasting.trajectory import NAME
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace

#: Days before a result became known in which its assignment was due or forecast: beyond them it
#: was graded too late to be news.
_LOOK_BACK = 42
#: What identifies the rows of snapshots.
_ROWS = ("section_id", "student_id", "cut_day", "cut_on")


@dataclass(frozen=True)
class Known:
    """The running sections of some courses on a day, and what was forecast of them on it.

    Attributes
    ----------
    forecasts
        Columns `contract.FORECASTS`.
    versions
        By course the version of the model that forecast it.
    models
        The risk models by version.
    """

    running: Running
    forecasts: pd.DataFrame
    versions: Mapping[str, int]
    models: Mapping[int, RiskModel]


@dataclass(frozen=True)
class News:
    """The panels of a day and of some days before, and the newest forecasts of what is new.

    Attributes
    ----------
    forecasts
        Stored before what is new became known.
    models
        The risk models by course.
    """

    now: Sequence[Panel]
    before: Sequence[Panel]
    forecasts: pd.DataFrame
    models: Mapping[str, RiskModel]


@dataclass(frozen=True)
class StoredForecast:
    """What was stored of one enrollment.

    Attributes
    ----------
    forecasts
        The student's, in order of horizon.
    planned
        The student's rows of the plan of the run's day, which is that of his or her arm if an
        experiment runs; `None` if the course has no plan of that day.
    """

    course_id: str
    section_id: str
    student_id: str
    run: store.CourseRun
    forecasts: pd.DataFrame
    planned: pd.DataFrame | None


@dataclass(frozen=True)
class Enrollment:
    """One enrollment on the day of which it is forecast.

    Attributes
    ----------
    starts_on
        The section's start.
    panels
        The student's; none if nothing is due any more.
    forecasts, planned
        As in `StoredForecast`.
    degraded
        Why the forecasts are less than they could be.
    stored
        Whether the forecasts are those of a nightly run.
    """

    student_id: str
    course_id: str
    section_id: str
    as_of: date
    starts_on: date
    panels: Sequence[Panel]
    forecasts: pd.DataFrame
    planned: pd.DataFrame | None
    model: RiskModel
    degraded: tuple[str, ...]
    stored: bool = True


def load(workspace: Workspace, courses: Collection[str]) -> Known:
    """Return what is known of `courses` on the day.

    Raises
    ------
    NotReadyError
        A course was not forecast on that day, or its features have not been computed.
    ArtifactError
        The model's files do not match their manifest.
    """
    versions, models = _models(workspace, courses, workspace.as_of)
    return Known(
        running(workspace, courses),
        forecasts.read_forecasts(workspace.connection, workspace.as_of, courses=courses),
        versions,
        models,
    )


def load_news(workspace: Workspace, courses: Collection[str]) -> News:
    """Return what became known in the last days, and what was forecast of it before.

    Raises
    ------
    NotReadyError, ArtifactError
        As in `load`.
    """
    versions, models = _models(workspace, courses, workspace.as_of)
    then = workspace.as_of - timedelta(days=SETTINGS.new_days)
    now, before = running(workspace, courses).panels, running(workspace, courses, then).panels
    since = then - timedelta(days=_LOOK_BACK)
    return News(
        now,
        before,
        store.newest_forecasts(workspace.connection, _lately_due(now), since, then),
        {course: models[version] for course, version in versions.items()},
    )


def stored_forecast(
    connection: Connection, run: store.CourseRun, course: str, section: str, student: str
) -> StoredForecast:
    """Return what a run stored of an enrollment."""
    rows = forecasts.read_forecasts(connection, run.as_of, courses=[course], student=student)
    of_section = rows[rows["section_id"] == section].sort_values("horizon", ignore_index=True)
    planned = planned_for(connection, run, course, section, student)
    return StoredForecast(course, section, student, run, of_section, planned)


def enrollment(
    stored: StoredForecast, frames: Frames, model: RiskModel, starts_on: date
) -> Enrollment:
    """Return the enrollment with its own rows of the frames; no others are computed with.

    Raises
    ------
    NotReadyError
        The features of the course have not been computed.
    """
    day, course = stored.run.as_of, [stored.course_id]
    columns = (*_ROWS, *STATE)
    snapshots = frames.snapshots(course, columns=columns, student=stored.student_id)
    of_student = snapshots[
        (snapshots["section_id"] == stored.section_id) & (snapshots["cut_on"] <= pd.Timestamp(day))
    ]
    last = of_student[of_student["cut_on"] == of_student["cut_on"].max()]
    sequences = frames.sequences(course, student=stored.student_id)
    own = sequences[sequences["section_id"] == stored.section_id]
    return Enrollment(
        student_id=stored.student_id,
        course_id=stored.course_id,
        section_id=stored.section_id,
        as_of=day,
        starts_on=starts_on,
        panels=list(panels(own, last, on=day)),
        forecasts=stored.forecasts,
        planned=stored.planned,
        model=model,
        degraded=(
            *stored.run.degraded,
            *model.degraded,
            *stale(last, day),
        ),
    )


def planned_for(
    connection: Connection, run: store.CourseRun, course: str, section: str, student: str
) -> pd.DataFrame | None:
    """Return the student's rows of the plan of a run's day, or `None` if there is no plan."""
    task = tables.intervention.c
    of_course = store.read(
        connection, tables.intervention, task.as_of == run.as_of, task.course_id == course
    )
    if of_course.empty:
        return None
    of_student = of_course["section_id"].eq(section) & of_course["student_id"].eq(student)
    return of_course[of_student].sort_values("rank", ignore_index=True)


def _models(
    workspace: Workspace, courses: Collection[str], day: date
) -> tuple[Mapping[str, int], Mapping[int, RiskModel]]:
    """Return by course the version with which it was forecast on the day, and the risk models."""
    versions = store.versions(workspace.connection, courses, day)
    if missing := sorted(set(courses) - set(versions)):
        raise NotReadyError(
            f"There are no forecasts of {day} for {', '.join(missing)}.",
            "Run grade-ml run generate_time_series_forecasts; it makes them first.",
        )
    registry = workspace.registry
    return versions, {
        version: risk_model(registry, version) for version in sorted(set(versions.values()))
    }


def risk_model(registry: Registry, version: int) -> RiskModel:
    """Return the risk model that belongs to a version of the trajectory model.

    Raises
    ------
    ArtifactError
        There is no such version, or its files do not match their manifest.
    """
    return RiskModel.load(registry.fetch(registry.at(NAME, version)))


def _lately_due(panels: Sequence[Panel]) -> list[str]:
    return [
        str(name)
        for panel in panels
        for name in panel.assignments[
            (panel.due_day <= panel.day) & (panel.due_day > panel.day - _LOOK_BACK)
        ]
    ]
