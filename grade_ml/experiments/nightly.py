"""What a tick does with the running experiments: one function for each asset."""

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

from grade_ml.core.errors import (
    ConfigurationError,
    ExperimentError,
    GradeMLError,
    ServiceError,
)
from grade_ml.core.failures import is_transient
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
    """Assign an arm to each student who is enrolled in a course of a running split or bandit.

    A student who has an arm keeps it. A tick on the same day and records changes nothing.
    """
    plans = list(underway(workspace))
    return [_assigned(workspace, plan, plans) for plan in plans]


def _assigned(workspace: Workspace, plan: Plan, plans: list[Plan]) -> Assigned:
    connection, name = workspace.connection, plan.experiment_id
    registry = workspace.registry
    enrollments = enrolled(connection, plan.courses, workspace.as_of)
    students = with_strata(connection, enrollments, plan.strata, registry.declared)
    if plan.group is not None:
        of_group = _of_group(
            workspace, plan.group, [other for other in plans if other.group == plan.group]
        )
        students = students[students["student_id"].isin(of_group[name])]
    earlier = store.assignments(connection, name)
    shares = bandits.in_force(
        store.allocations(connection, name, workspace.as_of), plan, workspace.as_of
    )
    new = new_assignments(students, earlier, shares, name, registry.pseudonyms)
    if len(new):
        rows = new.assign(experiment_id=name, assigned_on=workspace.as_of)
        store.assign(connection, rows)
    everyone = pd.concat([frame[["student_id", "arm"]].astype(object) for frame in (earlier, new)])
    present = everyone[everyone["student_id"].isin(students["student_id"])]
    sizes = present["arm"].value_counts()
    return Assigned(
        name,
        {arm.name: int(sizes.get(arm.name, 0)) for arm in plan.arms},
        shares,
        len(new),
    )


def _of_group(workspace: Workspace, group: str, plans: list[Plan]) -> dict[str, set[str]]:
    """Return for each experiment of the group the students who may take part in it."""
    connection = workspace.connection
    could = {
        plan.experiment_id: enrolled(connection, plan.courses, workspace.as_of)["student_id"]
        for plan in plans
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
    assigned = pd.DataFrame(rows.all(), columns=["student_id", "experiment_id"])
    chosen = one_of_each_group(candidates, assigned, group, workspace.registry.pseudonyms)
    return {name: set(chosen.loc[chosen["experiment_id"] == name, "student_id"]) for name in could}


@dataclass(frozen=True)
class LookResult:
    """The result of looking at one experiment; `look` is None if there was no look.

    `text` states the decision, or why there was no look.
    """

    experiment_id: str
    look: Look | None
    text: str


def results(workspace: Workspace) -> list[LookResult]:
    """Look at each running experiment; store new looks and final decisions.

    Bandits are not tested: their shares follow the rewards, which no test here allows for;
    `allocations` estimates what each arm is worth.

    A look that fails does not stop the others. The same labels again change nothing.
    """
    looks = []
    for experiment in store.running(workspace.connection, Kind.SHADOW, Kind.WATCH, Kind.SPLIT):
        name = experiment.plan.experiment_id
        seen, why = _apart(workspace, name, partial(_looked, workspace, experiment))
        looks.append(LookResult(name, seen, f"{seen.decision}: {seen.reason}" if seen else why))
    return looks


def _looked(workspace: Workspace, experiment: Experiment) -> Look:
    connection, plan = workspace.connection, experiment.plan
    earlier = store.looks(connection, plan.experiment_id)
    seen = look(plan, _seen(workspace, plan), earlier, workspace.as_of, workspace.now)
    if seen.decision is not Decision.SKIPPED:
        store.keep_look(connection, plan.experiment_id, seen)
    if seen.decision.is_final:
        figures = {
            name: getattr(seen, name)
            for name in ("difference", "low", "high", "z", "bound", "units", "labels")
        }
        store.record(
            connection,
            plan.experiment_id,
            Event(Happened.DECIDED, workspace.now, PROGRAM, seen.reason, seen.decision, figures),
        )
    return seen


def _seen(workspace: Workspace, plan: Plan) -> Seen:
    if plan.kind.compares_models:
        return of_labels(plan, labels.read(workspace, plan))
    outcomes = read_outcomes(workspace, plan)
    version = labels.version(outcomes.labels, workspace.registry.pseudonyms)
    return of_outcomes(plan, outcomes, version)


@dataclass(frozen=True)
class Promotions:
    """The steps that a tick took after decisions, and the reports of experiments.

    Attributes
    ----------
    steps
        In their order; a step without an event states what it waits for.
    reports
        Of the experiments that run or ended recently.
    places
        Of their HTML pages, by id.
    degraded
        Sentences on what could not be done now; a later tick does it.
    """

    steps: tuple[Step, ...]
    reports: tuple[Report, ...]
    places: Mapping[str, str]
    degraded: tuple[str, ...]


def promotions(opened: Opening) -> Promotions:
    """Carry out decisions, then write the pages and update MLflow.

    If MLflow does not answer, no version moves, and the next tick carries out the decisions.
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
    """The shares that a bandit gives to future students, and why.

    Attributes
    ----------
    shares
        Of each arm, from the next day on.
    totals
        Counts and rewards of each arm.
    values
        What each arm is worth if every student had been given it.
    new
        Whether anything was learned since the shares were last stored; if not, nothing is written.
    reason
        Why the bandit could not learn, so that its shares stay; empty if it could.
    """

    experiment_id: str
    shares: Mapping[str, float]
    totals: Mapping[str, Totals] = field(default_factory=dict)
    values: Sequence[Value] = ()
    new: bool = False
    reason: str = ""


def allocations(workspace: Workspace) -> list[Allocated]:
    """Let the shares of each running bandit follow its rewards, from the next day on.

    A tick on the same records writes nothing. A bandit that cannot learn keeps its shares, gives
    the reason, and does not stop the others.
    """
    return [_allocated(workspace, plan) for plan in underway(workspace, Kind.BANDIT)]


def _allocated(workspace: Workspace, plan: Plan) -> Allocated:
    name = plan.experiment_id
    earlier = store.allocations(workspace.connection, name, date.max)
    allocated, why = _apart(workspace, name, partial(_learned, workspace, plan, earlier))
    tomorrow = workspace.as_of + timedelta(days=1)
    return allocated or Allocated(name, bandits.in_force(earlier, plan, tomorrow), reason=why)


def _learned(workspace: Workspace, plan: Plan, earlier: Sequence[Allocation]) -> Allocated:
    newest = max((allocation.as_of for allocation in earlier), default=workspace.as_of)
    arms = [arm.name for arm in plan.arms]
    history = rewards(workspace, plan)
    sizes = sample_ratio(
        Counter(history["arm"]),
        bandits.expected_shares(history["assigned_on"].tolist(), earlier, plan),
    )
    if sizes.mismatch:
        raise ExperimentError(
            f"The shares of {plan.experiment_id} stay as they are: {sizes.reason}",
            "Find the cause of the wrong sizes; stop the experiment if there is no explanation.",
        )
    # An earlier day than the newest is refused.
    state = bandits.begun(arms, newest).learned(bandits.cohorts(history), workspace.as_of)
    seed = int(digest({"experiment": plan.experiment_id, "seed": workspace.seed}, 8), 16)
    shares = bandits.in_force((), plan, workspace.as_of)  # the plan's, until something is known
    if any(total.labelled for total in state.totals.values()):
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
    before = {
        allocation.arm: (allocation.probability, allocation.state)
        for allocation in earlier
        if allocation.as_of == newest
    }
    new = before != {
        allocation.arm: (allocation.probability, allocation.state) for allocation in rows
    }
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
    """Return the result of one experiment; if it fails, nothing of it, and the reason."""
    try:
        with workspace.connection.begin_nested():
            return work(), ""
    except (ConfigurationError, ServiceError):
        raise  # no experiment is the cause
    except GradeMLError as error:
        return None, str(error)
    except Exception as error:  # logged and reported with its place; the others continue
        if is_transient(error):
            raise
        logger.exception("The experiment %s could not be processed.", name)
        return None, f"{type(error).__name__} {place(error)}"
