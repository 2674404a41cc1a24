"""Which trajectory model serves a day, and its forecasts of every running enrollment, stored.

A model that cannot be read steps aside for the next in line, and the forecasts say so.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import pandas as pd

from grade_ml.core.errors import ArtifactError, NotReadyError
from grade_ml.core.frames import reasons, sound
from grade_ml.forecasting import store
from grade_ml.forecasting.contract import ACTIVITY, Forecasts, schema
from grade_ml.forecasting.loading import running
from grade_ml.forecasting.trajectory import NAME, Trajectory
from grade_ml.registry.registry import Alias
from grade_ml.registry.transition import Stage
from grade_ml.registry.workspace import Workspace


@dataclass(frozen=True)
class ServedTrajectory:
    """The model that serves a day, and why it is not the one that should."""

    model: Trajectory
    version: int
    degraded: tuple[str, ...] = ()


def serving(workspace: Workspace) -> ServedTrajectory:
    """Return the champion if it knows nothing after the day, else the newest that does not.

    A version that failed its verdicts serves where no other can: it falls back on the naive
    forecasters by itself where they are better, and says that it failed.

    Raises
    ------
    NotReadyError
        No model knows only what had ended by the day, or none of them can be read.
    """
    models = dict(store.models_by_merit(workspace.connection, workspace.as_of))
    champion = workspace.registry.get(NAME, Alias.CHAMPION)
    first = [champion.version] if champion and champion.version in models else []
    problems: list[str] = []
    for version in dict.fromkeys([*first, *models]):
        name = f"version {version} of the model {NAME}"
        try:
            found = workspace.registry.at(NAME, version)
            if workspace.stages.of(found) is Stage.ROLLED_BACK:
                problems.append(f"{name} was rolled back")
                continue
            model = Trajectory.load(workspace.registry.fetch(found))
        except ArtifactError as error:
            problems.append(f"{name} cannot serve: {error.message}")
            continue
        if not models[version]:
            problems.append(f"{name} failed its checks and serves because no other can")
        return ServedTrajectory(model, version, tuple(problems))
    raise NotReadyError(
        " ".join([f"There is no model for forecasts of {workspace.as_of}.", *problems]),
        "Run grade-ml run generate_time_series_forecasts; it trains one.",
    )


def forecast_running(
    workspace: Workspace, courses: Collection[str], served: ServedTrajectory
) -> Forecasts:
    """Forecast every running enrollment of `courses` on the day, and store it.

    An enrollment whose forecasts cannot be computed is left out, and that is said.

    Raises
    ------
    NotReadyError
        The features of a course have not been computed.
    """
    now = running(workspace, courses)
    said = served.model.forecast(now.panels, now.weekly, workspace.as_of)
    forecasts, broken = sound(said.forecasts, schema())
    activity, odd = sound(said.activity, schema(ACTIVITY))
    said = replace(
        said,
        forecasts=forecasts,
        activity=activity,
        nothing=_nothing(courses, now.sections, forecasts),
        degraded=(
            *served.degraded,
            *said.degraded,
            *now.stale,
            *(f"no forecast of {n} enrollments: {why}" for why, n in reasons(broken).items()),
            *(f"no activity of {n} enrollments: {why}" for why, n in reasons(odd).items()),
        ),
    )
    store.write(workspace.connection, courses, workspace.as_of, said, served.version)
    return said


def _nothing(
    courses: Collection[str], running: pd.DataFrame, forecasts: pd.DataFrame
) -> dict[str, str]:
    """Return in words why a course has no forecast."""
    there = set(forecasts["course_id"])
    runs = set(running["course_id"])
    return {
        course: "nothing is due any more, or nobody is enrolled"
        if course in runs
        else "no section runs on this day"
        for course in courses
        if course not in there
    }
