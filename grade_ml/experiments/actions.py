"""What experiments on interventions change in a night, and on whom they took effect.

Early warning knows no experiments: it is told for which students another table holds, or nothing is
planned. When an effect counts, in whichever arm, is said in `actions`.
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
from grade_ml.early_warning.store import risk_period
from grade_ml.experiments import store
from grade_ml.experiments.plan import NOTHING, STANDARD, Arm, Kind, Plan
from grade_ml.registry.workspace import Workspace


@dataclass(frozen=True)
class Actions:
    """What holds on a day because of experiments.

    Attributes
    ----------
    exceptions
        For whom something else holds than the table in force.
    exposed
        By experiment that has an effect: student_id and arm of those on whom it has one.
    skipped
        Experiments that have no effect today, and why.
    """

    exceptions: Exceptions
    exposed: Mapping[str, pd.DataFrame]
    skipped: tuple[str, ...]


def actions(workspace: Workspace, courses: Collection[str], rules: Sequence[Rule]) -> Actions:
    """Return what running experiments want for students of `courses` with a risk period today.

    The trigger is the same in every arm, or the comparison would be biased: a student with a risk
    period on the day, for whom every table has a proposal, is exposed, whatever the student's arm
    does about it and whether the week of the owner has room. What was planned says nothing of that:
    tasks of an arm without interventions are never planned, and a student's task of Monday is still
    in the plan on Friday, when another's, withheld on Monday, is not.

    An experiment of which a table cannot be read has no effect on anybody that day, in no arm, so
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
            special = {arm.name: one for arm in plan.arms if (one := _instead(plan, arm, rules))}
        except SourceError as error:
            skipped.append(f"the experiment {plan.experiment_id} has no effect today: {error}")
            continue
        here = at_risk[at_risk["course_id"].isin(plan.courses)] if plan.courses else at_risk
        rows = here.merge(_assigned(workspace, plan), on="student_id")
        found = rows[rows["arm"].isin(special)]
        triples = zip(found["course_id"], found["student_id"], found["arm"], strict=True)
        exceptions |= {(course, student): special[arm] for course, student, arm in triples}
        exposed[plan.experiment_id] = rows.drop_duplicates("student_id")[["student_id", "arm"]]
    return Actions(exceptions, exposed, tuple(skipped))


def expose(workspace: Workspace, found: Actions) -> None:
    """Log on whom arms took effect on the day; the same again changes nothing."""
    for name, rows in found.exposed.items():
        if len(rows):
            told = rows.assign(experiment_id=name, on_day=workspace.as_of)
            store.expose(workspace.connection, told)


def underway(workspace: Workspace, *kinds: Kind) -> Iterator[Plan]:
    """Yield the plans of the splits and bandits (or of one kind) that run on the day."""
    for one in store.running(workspace.connection, *kinds or (Kind.SPLIT, Kind.BANDIT)):
        last = one.plan.stops_on
        if one.plan.starts_on <= workspace.as_of and (last is None or workspace.as_of <= last):
            yield one.plan


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
