"""What a tick does with the experiments that run: one function for each asset."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import TypeVar

import pandas as pd
import sqlalchemy as sa

from grade_ml.core.database import is_lost
from grade_ml.core.errors import (
    ConfigurationError,
    ExperimentError,
    GradeMLError,
    ServiceError,
)
from grade_ml.core.hashing import digest
from grade_ml.core.plain import plain
from grade_ml.core.settling import place
from grade_ml.experiments import bandits, labels, lifecycle, off_policy, overview, report, store
from grade_ml.experiments.actions import underway
from grade_ml.experiments.assignment import new_assignments, one_of_each_group
from grade_ml.experiments.bandits import Totals
from grade_ml.experiments.comparison import sample_ratio
from grade_ml.experiments.lifecycle import Step
from grade_ml.experiments.look import Seen, look, of_labels, of_outcomes
from grade_ml.experiments.off_policy import Value
from grade_ml.experiments.outcomes import read_outcomes
from grade_ml.experiments.plan import (
    MOST_WITHHELD,
    NOTHING,
    Decision,
    Kind,
    Look,
    Metric,
    Plan,
)
from grade_ml.experiments.population import enrolled, with_strata
from grade_ml.experiments.report import Report
from grade_ml.experiments.store import PROGRAM, Allocation, Event, Experiment, Happened
from grade_ml.registry.workspace import Opening, Workspace

logger = logging.getLogger(__name__)

Done = TypeVar("Done")


@dataclass(frozen=True)
class Assigned:
    """Who takes part in an experiment.

    Attributes
    ----------
    arms
        Students of each arm who are enrolled on the day.
    shares
        What newcomers got today, by arm.
    new
        Students who got their arm today.
    """

    experiment_id: str
    arms: Mapping[str, int]
    shares: Mapping[str, float]
    new: int


def assignments(workspace: Workspace) -> list[Assigned]:
    """Give each student who is enrolled in a course of a running split or bandit an arm.

    Who has one keeps it. A tick on the same day and records changes nothing.
    """
    plans = list(underway(workspace))
    return [_assigned(workspace, plan, plans) for plan in plans]


def _assigned(workspace: Workspace, plan: Plan, plans: list[Plan]) -> Assigned:
    connection, name = workspace.connection, plan.experiment_id
    registry = workspace.registry
    enrollments = enrolled(connection, plan.courses, workspace.as_of)
    students = with_strata(connection, enrollments, plan.strata, registry.declared)
    if plan.group is not None:
        mine = _of_group(workspace, plan.group, [one for one in plans if one.group == plan.group])
        students = students[students["student_id"].isin(mine[name])]
    earlier = store.assignments(connection, name)
    shares = bandits.in_force(
        store.allocations(connection, name, workspace.as_of), plan, workspace.as_of
    )
    found = new_assignments(students, earlier, shares, name, registry.pseudonyms)
    if len(found):
        rows = found.assign(experiment_id=name, assigned_on=workspace.as_of)
        store.assign(connection, rows)
    everyone = pd.concat([one[["student_id", "arm"]].astype(object) for one in (earlier, found)])
    present = everyone[everyone["student_id"].isin(students["student_id"])]
    sizes = present["arm"].value_counts()
    return Assigned(
        name,
        {arm.name: int(sizes.get(arm.name, 0)) for arm in plan.arms},
        shares,
        len(found),
    )


def _of_group(workspace: Workspace, group: str, plans: list[Plan]) -> dict[str, set[str]]:
    """Return for each experiment of the group the students who may take part in it."""
    connection = workspace.connection
    could = {
        one.experiment_id: enrolled(connection, one.courses, workspace.as_of)["student_id"]
        for one in plans
    }
    candidates = pd.concat(
        [
            pd.DataFrame({"student_id": students.unique(), "experiment_id": name})
            for name, students in could.items()
        ]
    )
    table = store.assignment.c
    query = sa.select(table.student_id, table.experiment_id)
    rows = connection.execute(query.where(table.experiment_id.in_(sorted(could))))
    taken = pd.DataFrame(rows.all(), columns=["student_id", "experiment_id"])
    chosen = one_of_each_group(candidates, taken, group, workspace.registry.pseudonyms)
    return {name: set(chosen.loc[chosen["experiment_id"] == name, "student_id"]) for name in could}


@dataclass(frozen=True)
class Looked:
    """What was seen of one experiment; `look` is None where it could not be looked at.

    `says` tells in words what was decided, or why there was no look.
    """

    experiment_id: str
    look: Look | None
    says: str


def results(workspace: Workspace) -> list[Looked]:
    """Look at each experiment that runs, and store what is new with what follows from it.

    Of bandits nothing is tested: their shares follow what was seen, which no test here allows for;
    `allocations` says what each arm is worth.

    One that cannot be looked at costs the others nothing. The same labels again change nothing.
    """
    found = []
    for one in store.running(workspace.connection, Kind.SHADOW, Kind.WATCH, Kind.SPLIT):
        name = one.plan.experiment_id
        told, why = _apart(workspace, name, partial(_looked, workspace, one))
        found.append(Looked(name, told, f"{told.decision}: {told.reason}" if told else why))
    return found


def _looked(workspace: Workspace, one: Experiment) -> Look:
    connection, plan = workspace.connection, one.plan
    earlier = store.looks(connection, plan.experiment_id)
    told = look(plan, _seen(workspace, plan), earlier, workspace.as_of, workspace.now)
    if told.decision is not Decision.SKIPPED:
        store.keep_look(connection, plan.experiment_id, told)
    if told.decision.is_final:
        figures = {
            name: getattr(told, name)
            for name in ("difference", "low", "high", "z", "bound", "units", "labels")
        }
        store.record(
            connection,
            plan.experiment_id,
            Event(Happened.DECIDED, workspace.now, PROGRAM, told.reason, told.decision, figures),
        )
    return told


def _seen(workspace: Workspace, plan: Plan) -> Seen:
    if plan.kind.compares_models:
        return of_labels(plan, labels.read(workspace, plan))
    found = read_outcomes(workspace, plan)
    version = labels.version(found.labels, workspace.registry.pseudonyms)
    return of_outcomes(plan, found, version)


@dataclass(frozen=True)
class Promotions:
    """What a tick made of the decisions, and where the reports of experiments are.

    Attributes
    ----------
    steps
        In their order; one without an event says what is waited for.
    reports
        Of the experiments that run or ended lately.
    places
        Of their HTML pages, by id.
    degraded
        What could not be done now and is done by a later tick, in words.
    """

    steps: tuple[Step, ...]
    reports: tuple[Report, ...]
    places: Mapping[str, str]
    degraded: tuple[str, ...]


def promotions(opened: Opening) -> Promotions:
    """Draw the consequences of decisions, then write the pages and bring MLflow in step.

    Where MLflow does not answer, no version moves, and the next tick does what this one could not.
    """
    steps: Sequence[Step] = ()
    degraded = []
    try:
        steps = lifecycle.tick(opened)
    except ServiceError as error:
        degraded.append(f"No version was promoted or rolled back: {error}")
    with opened() as workspace:
        reports = overview.going_on(workspace.connection, workspace.as_of)
        published = report.publish(workspace, reports)
    degraded += published.degraded
    return Promotions(tuple(steps), tuple(reports), published.places, tuple(degraded))


@dataclass(frozen=True)
class Allocated:
    """What a bandit does with the students to come, and why.

    Attributes
    ----------
    shares
        Of each arm, from the next day on.
    totals
        What is known of each arm.
    values
        What each arm is worth if every student had been given it.
    new
        Whether anything was learned since the shares were last stored; if not, nothing is written.
    reason
        Why the shares stay as they were although they could be other ones; empty: they do not.
    """

    experiment_id: str
    shares: Mapping[str, float]
    totals: Mapping[str, Totals] = field(default_factory=dict)
    values: Sequence[Value] = ()
    new: bool = False
    reason: str = ""


def allocations(workspace: Workspace) -> list[Allocated]:
    """Let the shares of each running bandit follow its rewards, from the next day on.

    A tick on the same records writes nothing. A bandit that cannot learn keeps its shares, says
    why, and stops no other.
    """
    return [_allocated(workspace, plan) for plan in underway(workspace, Kind.BANDIT)]


def _allocated(workspace: Workspace, plan: Plan) -> Allocated:
    name = plan.experiment_id
    kept = store.allocations(workspace.connection, name, date.max)
    told, why = _apart(workspace, name, partial(_learned, workspace, plan, kept))
    tomorrow = workspace.as_of + timedelta(days=1)
    return told or Allocated(name, bandits.in_force(kept, plan, tomorrow), reason=why)


def _learned(workspace: Workspace, plan: Plan, kept: Sequence[Allocation]) -> Allocated:
    newest = max((one.as_of for one in kept), default=workspace.as_of)
    arms = [arm.name for arm in plan.arms]
    history = rewards(workspace, plan)
    sizes = sample_ratio(
        Counter(history["arm"]),
        bandits.expected_shares(history["assigned_on"].tolist(), kept, plan),
    )
    if sizes.mismatch:
        raise ExperimentError(
            f"The shares of {plan.experiment_id} stay as they are: {sizes.reason}",
            "Find out what assigned students otherwise; stop the experiment if it cannot be told.",
        )
    # An earlier day than the newest is refused.
    state = bandits.begun(arms, newest).learned(bandits.cohorts(history), workspace.as_of)
    seed = int(digest({"experiment": plan.experiment_id, "seed": workspace.seed}, 8), 16)
    shares = bandits.in_force((), plan, workspace.as_of)  # the plan's, until something is known
    if any(one.labelled for one in state.totals.values()):
        shares = bandits.shares(state, plan.policy, least_share=plan.least_share, seed=seed)
        for arm in plan.arms:
            if arm.action == NOTHING:  # neither a plan nor what follows withholds more
                shares = bandits.capped(shares, arm.name, MOST_WITHHELD)
    values = off_policy.values(history, arms)
    about = {"policy": plan.policy, "seed": seed}
    states = bandits.stored(state)
    rows = [
        Allocation(workspace.as_of, arm, shares[arm], plain(states[arm] | about | {"value": value}))
        for arm, value in zip(arms, values, strict=True)
    ]
    before = {one.arm: (one.probability, one.state) for one in kept if one.as_of == newest}
    new = before != {one.arm: (one.probability, one.state) for one in rows}
    if new:
        store.allocate(workspace.connection, plan.experiment_id, rows)
    return Allocated(plan.experiment_id, shares, state.totals, values, new)


def rewards(workspace: Workspace, plan: Plan) -> pd.DataFrame:
    """Return one row per assigned student, as `bandits.cohorts` and `off_policy.values` read it."""
    connection, name = workspace.connection, plan.experiment_id
    exposed = store.exposures(connection, name, workspace.as_of)["student_id"]
    known = read_outcomes(workspace, plan).students[["student_id", "value", "covariate"]]
    rows = store.assignments(connection, name).merge(known, on="student_id", how="left")
    return rows.assign(
        assigned_on=rows["assigned_on"].dt.date,
        exposed=rows["student_id"].isin(exposed),
        reward=rows["value"] / (100 if plan.metric is Metric.SCORE else 1),
    )


def _apart(workspace: Workspace, name: str, work: Callable[[], Done]) -> tuple[Done | None, str]:
    """Return what comes of one experiment; where it fails, nothing of it, and why in words."""
    try:
        with workspace.connection.begin_nested():
            return work(), ""
    except (ConfigurationError, ServiceError):
        raise  # no experiment is the cause
    except GradeMLError as error:
        return None, str(error)
    except Exception as error:  # logged and reported with its place; the others go on
        if is_lost(error):
            raise
        logger.exception("Nothing came of the experiment %s.", name)
        return None, f"{type(error).__name__} {place(error)}"
