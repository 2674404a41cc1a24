"""A night's early warning: load what is known, compute, store, and return what was stored.

What is loaded is in `loading`, what each thing is in the module of its name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import MappingProxyType

import pandas as pd
import sqlalchemy as sa

from grade_ml.early_warning import store
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
    found = outlook(load(workspace, courses), workspace.seed)
    _keep(workspace, store.risk_period, courses, found.periods)
    return found


def keep_interventions(
    workspace: Workspace,
    courses: Collection[str],
    rules: Sequence[Rule],
    load: int,
    exceptions: Exceptions = MappingProxyType({}),
) -> pd.DataFrame:
    """Plan what the day's stored risk periods ask for, store it, and return it (see `plan`)."""
    day = workspace.as_of
    period, task = store.risk_period.c, store.intervention.c
    names = sorted(courses)
    periods = store.read(
        workspace.connection,
        store.risk_period,
        period.course_id.in_(names),
        period.as_of == day,
    )
    earlier = store.read(
        workspace.connection,
        store.intervention,
        task.course_id.in_(names),
        task.as_of >= monday(day),
        task.as_of < day,
        task.planned_on.is_not(None),
    )
    found = plan(periods, rules, earlier, day, load, exceptions)
    _keep(workspace, store.intervention, courses, found)
    return found


def keep_anomalies(workspace: Workspace, courses: Collection[str]) -> pd.DataFrame:
    """Store what was unusual in the last days, and return it (see `anomalies`).

    A result is compared with the newest forecast that was stored before it was new; where none
    was, as in the first week, nothing is told of it.

    Raises
    ------
    NotReadyError, ArtifactError
        As in `loading.load`.
    """
    news = load_news(workspace, courses)
    references = {course: model.reference for course, model in news.models.items()}
    found = by_course(news.now, news.before, news.forecasts, references)
    _keep(workspace, store.anomaly, courses, found)
    return found


def _keep(
    workspace: Workspace, table: sa.Table, courses: Collection[str], rows: pd.DataFrame
) -> None:
    store.replace(workspace.connection, table, courses, workspace.as_of, rows)
