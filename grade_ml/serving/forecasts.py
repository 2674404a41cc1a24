"""Which trajectory model serves a day; makes and stores its forecasts of running enrollments.

The next candidate replaces a model that cannot be read, and the forecasts give the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import pandas as pd
from sqlalchemy import Connection

from grade_ml.core.degradation import expected
from grade_ml.core.errors import ArtifactError, NotReadyError
from grade_ml.core.frames import reasons, sound
from grade_ml.forecasting import store
from grade_ml.forecasting.contract import ACTIVITY, Forecasts, schema
from grade_ml.forecasting.loading import running
from grade_ml.forecasting.trajectory import NAME, Trajectory
from grade_ml.registry.history import Stage, recorded_stages
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace


@dataclass(frozen=True)
class ServedTrajectory:
    """The model that serves a day, and why it is not the first candidate."""

    model: Trajectory
    version: int
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A version that may serve a day: whether it passed its checks, and was rolled back."""

    version: int
    accepted: bool
    rolled_back: bool


def candidates(connection: Connection, as_of: date) -> tuple[Candidate, ...]:
    """Return the versions that know nothing after the day, in order of preference.

    The champion comes first, else the newest version.
    """
    models = dict(store.models_by_merit(connection, as_of))
    stages = recorded_stages(connection, NAME)[NAME]
    first = [version for version in models if stages.get(version) is Stage.CHAMPION]
    return tuple(
        Candidate(version, models[version], stages.get(version) is Stage.ROLLED_BACK)
        for version in dict.fromkeys([*first, *models])
    )


def serving(workspace: Workspace) -> ServedTrajectory:
    """Return the champion if it knows nothing after the day, else the newest that does not.

    Raises
    ------
    NotReadyError
        As in `first_readable`.
    """
    line = candidates(workspace.connection, workspace.as_of)
    return first_readable(workspace.registry, line, workspace.as_of)


def first_readable(registry: Registry, line: Sequence[Candidate], as_of: date) -> ServedTrajectory:
    """Return the first of the candidates of a day that can be read, and why none before it serves.

    A version that failed its checks serves if no other can: it uses the naive forecasters where
    they are better, and its forecasts state that it failed.

    Raises
    ------
    NotReadyError
        No model knows only what had ended by the day, or none of them can be read.
    """
    problems: list[str] = []
    for candidate in line:
        name = f"version {candidate.version} of the model {NAME}"
        try:
            version = registry.at(NAME, candidate.version)
            if candidate.rolled_back:
                problems.append(f"{name} was rolled back")
                continue
            model = Trajectory.load(registry.fetch(version))
        except ArtifactError as error:
            problems.append(f"{name} cannot serve: {error.message}")
            continue
        if not candidate.accepted:
            why = f"{name} failed its checks and serves because no other can"
            problems.append(expected(why))
        return ServedTrajectory(model, candidate.version, tuple(problems))
    raise NotReadyError(
        " ".join([f"There is no model for forecasts of {as_of}.", *problems]),
        "Run grade-ml run generate_time_series_forecasts; it trains one.",
    )


def forecast_running(
    workspace: Workspace, courses: Collection[str], served: ServedTrajectory
) -> Forecasts:
    """Forecast every running enrollment of `courses` on the day, and store it.

    An enrollment whose forecasts cannot be computed is left out; `degraded` gives the reason.

    Raises
    ------
    NotReadyError
        The features of a course have not been computed.
    """
    # Before the features are read: a load in between makes them look older than they are.
    origins = {course: workspace.frames.origin(course) for course in courses}
    now = running(workspace, courses)
    predicted = served.model.forecast(now.panels, now.weekly, workspace.as_of)
    forecasts, left_out = sound_forecasts(predicted)
    activity, odd = sound(predicted.activity, schema(ACTIVITY))
    predicted = replace(
        predicted,
        forecasts=forecasts,
        activity=activity,
        nothing=_nothing(courses, now.sections, forecasts),
        degraded_of={
            course: redesign_reasons(workspace.frames.redesigned([course])) for course in courses
        },
        degraded=(
            *served.degraded,
            *predicted.degraded,
            *now.stale,
            *left_out,
            *(f"no activity of {n} enrollments: {why}" for why, n in reasons(odd).items()),
        ),
    )
    store.write(workspace.connection, courses, workspace.as_of, predicted, served.version, origins)
    return predicted


def redesign_reasons(redesigned: Mapping[str, str]) -> tuple[str, ...]:
    """Return the reasons why forecasts of a course with redesigned sections are degraded.

    Parameters
    ----------
    redesigned
        As `Frames.redesigned` returns it.
    """
    return tuple(map(expected, redesigned.values()))


def sound_forecasts(predicted: Forecasts) -> tuple[pd.DataFrame, list[str]]:
    """Return the forecasts that satisfy the schema, and why other enrollments are left out."""
    forecasts, broken = sound(predicted.forecasts, schema())
    return forecasts, [
        f"no forecast of {n} enrollments: {why}" for why, n in reasons(broken).items()
    ]


def _nothing(
    courses: Collection[str], running: pd.DataFrame, forecasts: pd.DataFrame
) -> dict[str, str]:
    """Return the reason why each course without a forecast has none."""
    forecast_courses = set(forecasts["course_id"])
    runs = set(running["course_id"])
    return {
        course: "nothing is due any more, or nobody is enrolled"
        if course in runs
        else "no section runs on this day"
        for course in courses
        if course not in forecast_courses
    }
