"""What is going on, for whoever asks often: the experiments that run, or why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import Connection

from grade_ml.experiments import report, store
from grade_ml.experiments.comparison import sample_ratio
from grade_ml.experiments.plan import Kind
from grade_ml.experiments.report import Report
from grade_ml.experiments.store import State
from grade_ml.registry.transition import Stage, holders


@dataclass(frozen=True)
class Standing:
    """Where an experiment stands, in values for tables and JSON."""

    experiment: str
    kind: str
    subject: str
    state: str
    since: date
    looks: int
    labels: int
    fraction: float | None
    decision: str | None
    says: str


#: Days for which an experiment that has ended is shown beside those that run.
_SHOWN_DAYS = 14


def going_on(connection: Connection, as_of: date) -> list[Report]:
    """Return what is known of the experiments that run or ended lately, the oldest first."""
    since = as_of - timedelta(days=_SHOWN_DAYS)
    return [
        report.read(connection, one, as_of)
        for one in store.read(connection)
        if one.state is not State.ENDED or one.events[-1].at.date() >= since
    ]


def running(connection: Connection, as_of: date) -> list[Standing]:
    """Return the experiments that have not ended, the oldest first."""
    found = [one for one in store.read(connection) if one.state is not State.ENDED]
    return [_standing(report.read(connection, one, as_of)) for one in found]


def everything(connection: Connection, as_of: date) -> list[Standing]:
    """Return all experiments, the oldest first."""
    return [_standing(report.read(connection, one, as_of)) for one in store.read(connection)]


def _standing(one: Report) -> Standing:
    plan, look = one.experiment.plan, one.newest
    return Standing(
        one.name,
        plan.kind,
        plan.subject,
        one.state,
        plan.starts_on,
        len(one.looks),
        look.labels if look else 0,
        look.fraction if look and math.isfinite(look.fraction) else None,
        str(look.decision) if look else None,
        report.words(one)[-1],
    )


def wrong_sizes(connection: Connection) -> dict[str, str]:
    """Return by id the running splits whose arms do not have the planned sizes, and how.

    The shares of bandits change; whether theirs are right is asked where they learn.
    """
    found = {
        one.plan.experiment_id: sample_ratio(
            store.sizes(connection, one.plan.experiment_id),
            {arm.name: arm.share for arm in one.plan.arms},
        )
        for one in store.running(connection, Kind.SPLIT)
    }
    return {name: one.reason for name, one in found.items() if one.mismatch}


def idle(connection: Connection, model: str) -> str | None:
    """Return why there is nothing to do about experiments; None: there is something.

    Parameters
    ----------
    model
        The one for whose challengers experiments open by themselves.
    """
    if any(one.state is not State.ENDED for one in store.read(connection)):
        return None
    stages = holders(connection, model)
    if Stage.CHAMPION not in stages:
        return f"No experiment runs, and the model {model} has no champion; training makes one."
    if Stage.CHALLENGER not in stages:
        return (
            f"No experiment runs, and no version of the model {model} challenges version "
            f"{stages[Stage.CHAMPION]}, which serves."
        )
    return None
