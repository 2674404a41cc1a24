"""From a day's stored forecasts to stored risk periods, interventions and anomalies.

Here stored things are brought together; what each is stands in the module of its name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import pandas as pd

from grade_ml.core.errors import NotReadyError
from grade_ml.early_warning import store as risk_store
from grade_ml.early_warning.anomalies import ANOMALIES, anomalies
from grade_ml.early_warning.grade_paths import empty, grade_paths, standing
from grade_ml.early_warning.interventions import Rule, monday, plan
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.early_warning.risk_periods import risk_periods
from grade_ml.early_warning.settings import SETTINGS
from grade_ml.forecasting import store
from grade_ml.forecasting.contract import Panel
from grade_ml.forecasting.loading import running
from grade_ml.forecasting.trajectory import NAME
from grade_ml.registry.workspace import Workspace

#: Days before a result became known in which its assignment was due or forecast: beyond them it
#: was graded too late to be news.
_LOOK_BACK = 42


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of the running sections of some courses.

    Attributes
    ----------
    paths, periods
        As `grade_paths` and `risk_periods` return them.
    model
        The newest of the models behind them.
    degraded
        Why this is less than it could be; empty: it is not.
    """

    panels: Sequence[Panel]
    paths: pd.DataFrame
    periods: pd.DataFrame
    model: RiskModel
    degraded: tuple[str, ...]


def outlook(workspace: Workspace, courses: Collection[str]) -> Outlook:
    """Return paths and risk periods that follow from the forecasts stored on the day.

    Raises
    ------
    NotReadyError
        A course was not forecast on that day, or its features have not been computed.
    ArtifactError
        The model's files do not match their manifest.
    """
    models = risk_models(workspace, courses)
    now = running(workspace, courses)
    forecasts = store.read_forecasts(workspace.connection, workspace.as_of, courses=courses)
    state = standing(now.panels)
    newest = models[max(models)]
    found = []
    for version, model in models.items():
        own = [name for name, one in _versions(workspace, courses).items() if one == version]
        some = forecasts[forecasts["course_id"].isin(own)]
        found.append(grade_paths(some, state, model.paths, workspace.seed))
    paths = pd.concat(found, ignore_index=True)
    return Outlook(now.panels, paths, risk_periods(paths), newest, (*newest.degraded, *now.stale))


def risk_models(workspace: Workspace, courses: Collection[str]) -> dict[int, RiskModel]:
    """Return by version the models with which the courses were forecast on the day."""
    return {
        version: RiskModel.load(workspace.registry.fetch(workspace.registry.at(NAME, version)))
        for version in sorted(set(_versions(workspace, courses).values()))
    }


def _versions(workspace: Workspace, courses: Collection[str]) -> dict[str, int]:
    known = risk_store.versions(workspace.connection, courses, workspace.as_of)
    if missing := sorted(set(courses) - set(known)):
        raise NotReadyError(
            f"There are no forecasts of {workspace.as_of} for {', '.join(missing)}.",
            "Run grade-ml run generate_time_series_forecasts; it makes them first.",
        )
    return known


def keep_periods(workspace: Workspace, courses: Collection[str]) -> Outlook:
    """Store the risk periods of the day; return what they rest on."""
    found = outlook(workspace, courses)
    risk_store.replace(
        workspace.connection, risk_store.risk_period, courses, workspace.as_of, found.periods
    )
    return found


def keep_interventions(
    workspace: Workspace, courses: Collection[str], rules: Sequence[Rule], load: int
) -> pd.DataFrame:
    """Plan what the day's stored risk periods ask for, store it, and return it (see `plan`)."""
    period, task = risk_store.risk_period.c, risk_store.intervention.c
    names = sorted(courses)
    periods = risk_store.read(
        workspace.connection,
        risk_store.risk_period,
        period.course_id.in_(names),
        period.as_of == workspace.as_of,
    )
    earlier = risk_store.read(
        workspace.connection,
        risk_store.intervention,
        task.course_id.in_(names),
        task.as_of >= monday(workspace.as_of),
        task.as_of < workspace.as_of,
        task.planned_on.is_not(None),
    )
    found = plan(periods, rules, earlier, workspace.as_of, load)
    risk_store.replace(
        workspace.connection, risk_store.intervention, courses, workspace.as_of, found
    )
    return found


def keep_anomalies(workspace: Workspace, courses: Collection[str]) -> pd.DataFrame:
    """Store what was unusual in the last days, and return it (see `anomalies`).

    A result is compared with the newest forecast that was stored before it was new; where none
    was, as in the first week, nothing is told of it.

    Raises
    ------
    NotReadyError, ArtifactError
        As in `outlook`.
    """
    known, models = _versions(workspace, courses), risk_models(workspace, courses)
    then = replace(workspace, as_of=workspace.as_of - timedelta(days=SETTINGS.new_days))
    now, before = running(workspace, courses).panels, running(then, courses).panels
    recent = [
        str(name)
        for panel in now
        for name in panel.assignments[
            (panel.due_day <= panel.day) & (panel.due_day > panel.day - _LOOK_BACK)
        ]
    ]
    since = then.as_of - timedelta(days=_LOOK_BACK)
    forecasts = risk_store.newest_forecasts(workspace.connection, recent, since, then.as_of)
    parts = [empty(ANOMALIES)]
    for course in sorted(courses):
        parts.append(
            anomalies(
                [one for one in now if one.course_id == course],
                [one for one in before if one.course_id == course],
                forecasts[forecasts["course_id"] == course],
                models[known[course]].reference,
            )
        )
    found = pd.concat([one for one in parts if len(one)] or parts[:1], ignore_index=True)
    risk_store.replace(workspace.connection, risk_store.anomaly, courses, workspace.as_of, found)
    return found
