"""What a tick does with the experiments that run: one function for each asset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import sqlalchemy as sa

from grade_ml.core.database import is_lost
from grade_ml.core.errors import ConfigurationError, GradeMLError, ServiceError
from grade_ml.core.settling import place
from grade_ml.experiments import bandits, labels, lifecycle, overview, report, store
from grade_ml.experiments.actions import underway
from grade_ml.experiments.assignment import new_assignments, one_of_each_group
from grade_ml.experiments.lifecycle import Step
from grade_ml.experiments.look import look, of_labels
from grade_ml.experiments.plan import Decision, Kind, Look, Plan
from grade_ml.experiments.population import enrolled, with_strata
from grade_ml.experiments.report import Report
from grade_ml.experiments.store import PROGRAM, Event, Experiment, Happened
from grade_ml.registry.workspace import Opening, Workspace

logger = logging.getLogger(__name__)


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

    One that cannot be looked at costs the others nothing. The same labels again change nothing.
    """
    found = []
    for one in store.running(workspace.connection, Kind.SHADOW, Kind.WATCH):
        name = one.plan.experiment_id
        try:
            with workspace.connection.begin_nested():
                told = _looked(workspace, one)
        except (ConfigurationError, ServiceError):
            raise  # no experiment is the cause
        except GradeMLError as error:
            found.append(Looked(name, None, str(error)))
        except Exception as error:  # of whatever kind: the others go on, and this one is told
            if is_lost(error):
                raise
            logger.exception("The experiment %s could not be looked at.", name)
            found.append(Looked(name, None, f"{type(error).__name__} {place(error)}"))
        else:
            found.append(Looked(name, told, f"{told.decision}: {told.reason}"))
    return found


def _looked(workspace: Workspace, one: Experiment) -> Look:
    connection, plan = workspace.connection, one.plan
    earlier = store.looks(connection, plan.experiment_id)
    seen = of_labels(plan, labels.read(workspace, plan))
    told = look(plan, seen, earlier, workspace.as_of, workspace.now)
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


@dataclass(frozen=True)
class Promotions:
    """What a tick made of the decisions, and where what is told of experiments lies.

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
