"""What experiments on interventions change on a day, and the students on whom they took effect.

Early warning knows no experiments: it receives the students for whom another table holds, or for
whom nothing is planned. `actions` defines when an effect counts, in every arm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import sqlalchemy as sa

from grade_ml.core.database import read_frame
from grade_ml.core.errors import SourceError
from grade_ml.early_warning.interventions import Exceptions, Instead, Rule, read_table
from grade_ml.early_warning.tables import risk_period
from grade_ml.experiments import store
from grade_ml.experiments.plan import NOTHING, STANDARD, Arm, Kind, Plan
from grade_ml.registry.workspace import Workspace


@dataclass(frozen=True)
class Actions:
    """The effects of experiments on a day.

    Attributes
    ----------
    exceptions
        Students for whom something else holds than the table in force.
    exposed
        By experiment that has an effect: student_id and arm of those on whom it has one.
    skipped
        Experiments that have no effect today, and why.
    """

    exceptions: Exceptions
    exposed: Mapping[str, pd.DataFrame]
    skipped: tuple[str, ...]


def actions(workspace: Workspace, courses: Collection[str], rules: Sequence[Rule]) -> Actions:
    """Return the effects of running experiments on students of `courses` with a risk period today.

    The trigger is the same in every arm, or the comparison would be biased: a student with a risk
    period on the day, for whom every table has a proposal, is exposed, in any arm and even if the
    owner's week is full. The plan does not show that: tasks of an arm without interventions are
    never planned, and a student's task of Monday is still in the plan on Friday, while the task
    that was withheld from another student on Monday is not.

    If a table of an experiment cannot be read, the experiment has no effect that day in any arm, so
    that its arms stay comparable.

    Parameters
    ----------
    rules
        The table in force.
    """
    exceptions: dict[tuple[str, str], Instead] = {}
    exposed: dict[str, pd.DataFrame] = {}
    skipped: list[str] = []
    at_risk = _at_risk(workspace, courses)
    for plan in underway(workspace):
        try:
            special = {
                arm.name: instead for arm in plan.arms if (instead := _instead(plan, arm, rules))
            }
        except SourceError as error:
            skipped.append(f"the experiment {plan.experiment_id} has no effect today: {error}")
            continue
        in_courses = at_risk[at_risk["course_id"].isin(plan.courses)] if plan.courses else at_risk
        rows = in_courses.merge(_assigned(workspace, plan), on="student_id")
        changed = rows[rows["arm"].isin(special)]
        triples = zip(changed["course_id"], changed["student_id"], changed["arm"], strict=True)
        exceptions |= {(course, student): special[arm] for course, student, arm in triples}
        exposed[plan.experiment_id] = rows.drop_duplicates("student_id")[["student_id", "arm"]]
    return Actions(exceptions, exposed, tuple(skipped))


def expose(workspace: Workspace, today: Actions) -> None:
    """Store the students on whom arms took effect on the day; the same again changes nothing."""
    for name, rows in today.exposed.items():
        if len(rows):
            exposures = rows.assign(experiment_id=name, on_day=workspace.as_of)
            store.expose(workspace.connection, exposures)


def underway(workspace: Workspace, *kinds: Kind) -> Iterator[Plan]:
    """Yield the plans of the splits and bandits (or of one kind) that run on the day."""
    for experiment in store.running(workspace.connection, *kinds or (Kind.SPLIT, Kind.BANDIT)):
        last = experiment.plan.stops_on
        if experiment.plan.starts_on <= workspace.as_of and (
            last is None or workspace.as_of <= last
        ):
            yield experiment.plan


def _instead(plan: Plan, arm: Arm, rules: Sequence[Rule]) -> Instead | None:
    if arm.action == STANDARD:
        return None
    if arm.action == NOTHING:
        name = plan.experiment_id
        return Instead(
            tuple(rules),
            f"withheld by the experiment {name}, which asks whether acting helps; "
            f"grade-ml experiment show {name} says until when",
        )
    return Instead(read_table(Path(str(arm.action))))


def _assigned(workspace: Workspace, plan: Plan) -> pd.DataFrame:
    rows = store.assignments(workspace.connection, plan.experiment_id)
    rows = rows[rows["assigned_on"] <= pd.Timestamp(workspace.as_of)]
    return rows[["student_id", "arm"]].astype(object)


def _at_risk(workspace: Workspace, courses: Collection[str]) -> pd.DataFrame:
    """Return course_id and student_id of those with a stored risk period of the day."""
    column = risk_period.c
    query = sa.select(column.course_id, column.student_id).distinct()
    query = query.where(column.as_of == workspace.as_of, column.course_id.in_(sorted(courses)))
    return read_frame(workspace.connection, query).astype(object)
