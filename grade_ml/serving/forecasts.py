"""Forecasts every running enrollment of chosen courses, and stores it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pandas as pd

from grade_ml.core.frames import reasons, sound
from grade_ml.forecasting import store
from grade_ml.forecasting.contract import ACTIVITY, Forecasts, schema
from grade_ml.forecasting.loading import running
from grade_ml.forecasting.trajectory import Trajectory
from grade_ml.registry.workspace import Workspace


def forecast_running(
    workspace: Workspace, courses: Collection[str], model: Trajectory, version: int
) -> Forecasts:
    """Forecast every running enrollment of `courses` on the day, and store it.

    An enrollment whose forecasts cannot be computed is left out, and that is said.

    Raises
    ------
    NotReadyError
        The features of a course have not been computed.
    """
    now = running(workspace, courses)
    said = model.forecast(now.panels, now.weekly, workspace.as_of)
    forecasts, broken = sound(said.forecasts, schema())
    activity, odd = sound(said.activity, schema(ACTIVITY))
    said = replace(
        said,
        forecasts=forecasts,
        activity=activity,
        nothing=_nothing(courses, now.sections, forecasts),
        degraded=(
            *said.degraded,
            *now.stale,
            *(f"no forecast of {n} enrollments: {why}" for why, n in reasons(broken).items()),
            *(f"no activity of {n} enrollments: {why}" for why, n in reasons(odd).items()),
        ),
    )
    store.write(workspace.connection, courses, workspace.as_of, said, version)
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
