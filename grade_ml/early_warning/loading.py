"""What early warning reads: panels of a day, its stored forecasts, and the risk models behind them.

Nothing is computed here; the tables are in `store`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd
from sqlalchemy import Connection

from grade_ml.core.errors import NotReadyError
from grade_ml.early_warning import store
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.early_warning.settings import SETTINGS
from grade_ml.forecasting import store as forecasts
from grade_ml.forecasting.contract import Panel
from grade_ml.forecasting.loading import Running, running
from grade_ml.forecasting.trajectory import NAME
from grade_ml.registry.workspace import Workspace

#: Days before a result became known in which its assignment was due or forecast: beyond them it
#: was graded too late to be news.
_LOOK_BACK = 42


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
class Enrollment:
    """One enrollment on the newest day on which it was forecast.

    Attributes
    ----------
    as_of
        That day.
    starts_on
        The section's start.
    panels
        The student's; none where nothing is due any more.
    forecasts
        The student's, in order of horizon.
    planned
        The student's rows of the stored plan of that day, which is that of his or her arm where an
        experiment runs; None: the course has no plan of that day.
    degraded
        Why the forecasts are less than they could be.
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


def load_enrollment(workspace: Workspace, course: str, section: str, student: str) -> Enrollment:
    """Return a running enrollment as of the newest forecast up to the day.

    Raises
    ------
    NotReadyError
        The course was never forecast up to that day.
    ArtifactError
        The model's files do not match their manifest.
    """
    connection = workspace.connection
    made_on = forecasts.newest_day(connection, workspace.as_of, course)
    if made_on is None:
        raise NotReadyError(
            f"There is no forecast of the course {course} up to {workspace.as_of}.",
            f"Run grade-ml run generate_time_series_forecasts --course {course}; the schedule "
            "does it every night.",
        )
    (model,) = _models(workspace, [course], made_on)[1].values()
    now = running(workspace, [course], made_on)
    stored = forecasts.read_forecasts(connection, made_on, courses=[course], student=student)
    own = stored[stored["section_id"] == section].sort_values("horizon", ignore_index=True)
    stale = f"the newest forecast is that of {made_on}"
    starts = now.sections.set_index("section_id")["starts_on"]
    return Enrollment(
        student_id=student,
        course_id=course,
        section_id=section,
        as_of=made_on,
        starts_on=starts.get(section, made_on),
        panels=[
            one.of((one.students == student).nonzero()[0])
            for one in now.panels
            if one.section_id == section
        ],
        forecasts=own,
        planned=_planned(connection, made_on, course, section, student),
        model=model,
        degraded=(
            *((stale,) if made_on != workspace.as_of else ()),
            *store.degraded(connection, course, made_on),
            *model.degraded,
            *now.stale,
        ),
    )


def _planned(
    connection: Connection, day: date, course: str, section: str, student: str
) -> pd.DataFrame | None:
    task = store.intervention.c
    of_course = store.read(
        connection, store.intervention, task.as_of == day, task.course_id == course
    )
    if of_course.empty:
        return None
    mine = of_course["section_id"].eq(section) & of_course["student_id"].eq(student)
    return of_course[mine].sort_values("rank", ignore_index=True)


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
        version: RiskModel.load(registry.fetch(registry.at(NAME, version)))
        for version in sorted(set(versions.values()))
    }


def _lately_due(panels: Sequence[Panel]) -> list[str]:
    return [
        str(name)
        for panel in panels
        for name in panel.assignments[
            (panel.due_day <= panel.day) & (panel.due_day > panel.day - _LOOK_BACK)
        ]
    ]
