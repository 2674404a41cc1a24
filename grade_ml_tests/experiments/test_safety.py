"""Help is withheld from half of the students at most, until a set day, and not where it harms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from grade_ml.core.errors import ExperimentError
from grade_ml.core.settings import Settings
from grade_ml.experiments import store
from grade_ml.experiments.lifecycle import settle
from grade_ml.experiments.outcomes import read_kept
from grade_ml.experiments.plan import Arm, Plan, checked
from grade_ml.experiments.safety import harm, harmful
from grade_ml.experiments.store import Happened, State
from grade_ml.gradebook.frames import Gradebook
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.experiments.plans import of_actions
from grade_ml_tests.experiments.split import at, book, on
from grade_ml_tests.features.records import day

EVERYBODY = [f"s{n:03}" for n in range(160)]
ARMS = {name: ("standard", "none")[n % 2] for n, name in enumerate(EVERYBODY)}


@pytest.mark.parametrize("share", [0.5, 0.51])
def test_withholding_has_limits(share: float):
    arms = (Arm("now", action="standard", share=1 - share), Arm("not", action="none", share=share))
    plan = of_actions(arms=arms)
    with pytest.raises(ExperimentError, match="it withholds help, so it needs a last day"):
        checked(replace(plan, stops_on=None))
    if share > 0.5:
        with pytest.raises(ExperimentError, match=r"withholds help from more than 0\.5"):
            checked(plan)
    else:
        assert checked(plan) == plan
    others = (arms[0], replace(arms[1], action="own.csv"))
    assert checked(replace(plan, arms=others, stops_on=None))


def shares(kept: int, of: int, withheld: bool) -> pd.DataFrame:
    value = np.repeat([1.0, 0.0], [kept, of - kept])
    return pd.DataFrame({"value": value, "withheld": withheld})


def harm_of(helped: tuple[int, int], withheld: tuple[int, int]) -> str:
    rows = pd.concat([shares(*helped, False), shares(*withheld, True)])
    return harmful(rows["value"], rows["withheld"])


def test_harm_is_reported_where_it_is_significant_and_only_where_help_is_withheld():
    assert harm_of((190, 200), (150, 200)) == (
        "help is withheld no longer: 25% of those without it withdrew or failed so far, and 5% of "
        "the others"
    )
    assert harm_of((150, 200), (190, 200)) == ""  # acting does the harm: a matter of the decision
    assert harm_of((190, 200), (184, 200)) == ""
    assert harm_of((19, 20), (5, 20)) == ""  # too few
    assert harm_of((200, 200), (200, 200)) == harm_of((0, 0), (0, 0)) == ""


def campus(lost: list[str]) -> Gradebook:
    records = book(names=EVERYBODY)
    gone = records.enrollments["student_id"].isin(lost) & (
        records.enrollments["section_id"] == "math-1"
    )
    return replace(
        records,
        enrollments=records.enrollments.assign(
            withdrawn_on=records.enrollments["withdrawn_on"].mask(gone, day(40))
        ),
    )


def running(engine: Engine, settings: Settings, lost: list[str]) -> Plan:
    plan = of_actions(starts_on=on(20), stops_on=on(90), courses=("math",))
    fill(engine, campus(lost))
    assigned = pd.DataFrame({"student_id": list(ARMS), "arm": list(ARMS.values())})
    assigned = assigned.assign(experiment_id=plan.experiment_id)
    more = {"stratum": "", "probability": 0.5, "assigned_on": on(20)}
    with at(engine, settings, 25) as workspace:
        store.create(workspace.connection, plan, workspace.now, plan.owner, "by hand")
        store.assign(workspace.connection, assigned.assign(**more))
        store.expose(workspace.connection, assigned.assign(on_day=on(25)))
    return plan


def test_an_experiment_that_loses_students_is_stopped_on_that_day(
    engine: Engine, settings: Settings
):
    lost = [name for name in EVERYBODY[:60] if ARMS[name] == "none"]
    plan = running(engine, settings, lost)
    with at(engine, settings, 39) as workspace:
        assert harm(workspace, plan) == ""
    with at(engine, settings, 41) as workspace:
        kept = read_kept(workspace, plan).groupby("arm")["value"].mean()
        assert kept.to_dict() == {"standard": 1.0, "none": 1 - 30 / 80}
        (step,) = settle(workspace)
        assert step.happened is Happened.STOPPED and "38% of those without it" in step.says
        assert store.get(workspace.connection, plan.experiment_id).state is State.ENDED
