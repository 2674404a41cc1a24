"""The experiments that run or ended recently, as values for `status`, tables and JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import Connection

from grade_ml.experiments import report, store
from grade_ml.experiments.plan import Kind
from grade_ml.experiments.report import Report
from grade_ml.experiments.store import State


@dataclass(frozen=True)
class Summary:
    """The state of an experiment, in values for tables and JSON."""

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
    """Return the reports of the experiments that run or ended recently, the oldest first."""
    since = as_of - timedelta(days=_SHOWN_DAYS)
    return [
        report.read(connection, experiment, as_of)
        for experiment in store.read(connection)
        if experiment.state is not State.ENDED or experiment.events[-1].at.date() >= since
    ]


def running(connection: Connection, as_of: date) -> list[Summary]:
    """Return the experiments that have not ended, the oldest first."""
    unended = [
        experiment for experiment in store.read(connection) if experiment.state is not State.ENDED
    ]
    return [_summary(report.read(connection, experiment, as_of)) for experiment in unended]


def everything(connection: Connection, as_of: date) -> list[Summary]:
    """Return all experiments, the oldest first."""
    return [
        _summary(report.read(connection, experiment, as_of))
        for experiment in store.read(connection)
    ]


def _summary(known: Report) -> Summary:
    plan, look = known.experiment.plan, known.newest
    return Summary(
        known.name,
        plan.kind,
        plan.subject,
        known.state,
        plan.starts_on,
        len(known.looks),
        look.labels if look else 0,
        look.fraction if look and math.isfinite(look.fraction) else None,
        str(look.decision) if look else None,
        report.words(known)[-1],
    )


def wrong_sizes(connection: Connection) -> dict[str, str]:
    """Return by id the running splits whose arms do not have the planned sizes, and how.

    The shares of bandits change; `nightly.allocations` checks theirs.
    """
    from grade_ml.experiments.comparison import sample_ratio

    ratios = {
        experiment.plan.experiment_id: sample_ratio(
            store.sizes(connection, experiment.plan.experiment_id),
            {arm.name: arm.share for arm in experiment.plan.arms},
        )
        for experiment in store.running(connection, Kind.SPLIT)
    }
    return {name: ratio.reason for name, ratio in ratios.items() if ratio.mismatch}
