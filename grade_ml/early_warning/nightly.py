"""The nightly early warning: load what is known, compute, store, and return what was stored.

What is loaded is in `loading`, what each thing is in the module of its name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import MappingProxyType

import pandas as pd
import sqlalchemy as sa

from grade_ml.early_warning import store, tables
from grade_ml.early_warning.anomalies import by_course
from grade_ml.early_warning.interventions import Exceptions, Rule, monday, plan
from grade_ml.early_warning.loading import load, load_news
from grade_ml.early_warning.outlook import Outlook, outlook
from grade_ml.registry.workspace import Workspace


def keep_periods(workspace: Workspace, courses: Collection[str]) -> Outlook:
    """Store the risk periods of the day; return what they rest on.

    Raises
    ------
    NotReadyError, ArtifactError
        As in `loading.load`.
    """
    expected = outlook(load(workspace, courses), workspace.seed)
    _keep(workspace, tables.risk_period, courses, expected.periods)
    return expected


def keep_interventions(
    workspace: Workspace,
    courses: Collection[str],
    rules: Sequence[Rule],
    load: int,
    exceptions: Exceptions = MappingProxyType({}),
) -> pd.DataFrame:
    """Plan, store and return the actions for the day's stored risk periods (see `plan`)."""
    day = workspace.as_of
    period, task = tables.risk_period.c, tables.intervention.c
    names = sorted(courses)
    periods = store.read(
        workspace.connection,
        tables.risk_period,
        period.course_id.in_(names),
        period.as_of == day,
    )
    earlier = store.read(
        workspace.connection,
        tables.intervention,
        task.course_id.in_(names),
        task.as_of >= monday(day),
        task.as_of < day,
        task.planned_on.is_not(None),
    )
    planned = plan(periods, rules, earlier, day, load, exceptions)
    _keep(workspace, tables.intervention, courses, planned)
    return planned


def keep_anomalies(workspace: Workspace, courses: Collection[str]) -> pd.DataFrame:
    """Store what was unusual in the last days, and return it (see `anomalies`).

    A result is compared with the newest forecast that was stored before it was new; without such a
    forecast, as in the first week, the result is left out.

    Raises
    ------
    NotReadyError, ArtifactError
        As in `loading.load`.
    """
    news = load_news(workspace, courses)
    references = {course: model.reference for course, model in news.models.items()}
    unusual = by_course(news.now, news.before, news.forecasts, references)
    _keep(workspace, tables.anomaly, courses, unusual)
    return unusual


def _keep(
    workspace: Workspace, table: sa.Table, courses: Collection[str], rows: pd.DataFrame
) -> None:
    store.replace(workspace.connection, table, courses, workspace.as_of, rows)
