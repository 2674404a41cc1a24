"""What experiments on interventions change in a night, and on whom they took effect.

Early warning knows no experiments: it is told for which students another table holds, or nothing is
planned. An effect is logged for each day on which it would have helped: see `expose`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import sqlalchemy as sa

from grade_ml.core.errors import SourceError
from grade_ml.early_warning.interventions import Instead, Rule, read_table
from grade_ml.early_warning.store import risk_period
from grade_ml.experiments import store
from grade_ml.experiments.plan import NOTHING, STANDARD, Arm, Kind, Plan
from grade_ml.registry.workspace import Workspace


@dataclass(frozen=True)
class Actions:
    """What holds on a day because of experiments.

    Attributes
    ----------
    plans
        Of the experiments that have an effect.
    exceptions
        Who is no ordinary case, by course and student (see `interventions.Exceptions`).
    skipped
        Experiments that have no effect today, and why.
    """

    plans: tuple[Plan, ...]
    exceptions: Mapping[tuple[str, str], Instead]
    skipped: tuple[str, ...]


def actions(workspace: Workspace, courses: Collection[str], rules: Sequence[Rule]) -> Actions:
    """Return what running experiments want for students of `courses` on the day.

    An experiment of which a table cannot be read has no effect on anybody that day, in no arm, so
    that its arms stay comparable.

    Parameters
    ----------
    rules
        The table in force.
    """
    plans: list[Plan] = []
    exceptions: dict[tuple[str, str], Instead] = {}
    skipped: list[str] = []
    for plan in underway(workspace):
        try:
            special = {arm.name: one for arm in plan.arms if (one := _instead(plan, arm, rules))}
        except SourceError as error:
            skipped.append(f"the experiment {plan.experiment_id} has no effect today: {error}")
            continue
        plans.append(plan)
        assigned = _assigned(workspace, plan)
        chosen = assigned[assigned["arm"].isin(special)]
        for course in _of_plan(plan, courses):
            pairs = zip(chosen["student_id"], chosen["arm"], strict=True)
            exceptions |= {(course, student): special[arm] for student, arm in pairs}
    return Actions(tuple(plans), exceptions, tuple(skipped))


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
    return rows.astype({"student_id": object, "arm": object})


def _of_plan(plan: Plan, courses: Collection[str]) -> list[str]:
    return sorted(set(courses) & set(plan.courses) if plan.courses else set(courses))


def expose(
    workspace: Workspace, courses: Collection[str], found: Actions
) -> Mapping[str, Mapping[str, int]]:
    """Log on whom arms took effect on the day; return how many these are by experiment and arm.

    The trigger is the same in every arm, or the comparison would be biased: a student with a risk
    period on the day, for whom every table has a proposal, is logged, whatever the student's arm
    does about it and whether the week of the owner has room. What was planned says nothing of that:
    tasks of an arm without interventions are never planned, and a student's task of Monday is still
    in the plan on Friday, when another's, withheld on Monday, is not.
    """
    column = risk_period.c
    counts = {}
    for plan in found.plans:
        at_risk = set(
            workspace.connection.execute(
                sa.select(column.student_id)
                .where(
                    column.as_of == workspace.as_of, column.course_id.in_(_of_plan(plan, courses))
                )
                .distinct()
            ).scalars()
        )
        assigned = _assigned(workspace, plan)
        rows = assigned[assigned["student_id"].isin(at_risk)]
        rows = rows[["experiment_id", "student_id", "arm"]].assign(on_day=workspace.as_of)
        if len(rows):
            store.expose(workspace.connection, rows)
        sizes = rows["arm"].value_counts()
        counts[plan.experiment_id] = {arm.name: int(sizes.get(arm.name, 0)) for arm in plan.arms}
    return counts
