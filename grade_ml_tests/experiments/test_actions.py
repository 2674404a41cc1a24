"""From a plan to assignments, interventions and exposures, on a real database."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from sqlalchemy import Engine

from grade_ml.core.errors import ExperimentError
from grade_ml.core.settings import Settings
from grade_ml.early_warning.interventions import COLUMNS, Timing, read_table
from grade_ml.early_warning.nightly import keep_interventions
from grade_ml.early_warning.risk_periods import Driver
from grade_ml.experiments import nightly, store
from grade_ml.experiments.actions import Actions, actions, expose
from grade_ml.experiments.lifecycle import create
from grade_ml.experiments.plan import Arm
from grade_ml.experiments.population import require_known
from grade_ml.gradebook.attributes import SOURCES
from grade_ml.registry.workspace import Workspace
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.experiments.plans import of_actions
from grade_ml_tests.experiments.split import NAMES, at, book, on, put_at_risk

COURSES = ["art", "math"]
RULES = read_table()
#: It begins on a Tuesday.
PLAN = of_actions(starts_on=on(22), stops_on=on(90), courses=("math",), strata=("gender",))
NAME = PLAN.experiment_id


def nightly_run(workspace: Workspace) -> tuple[pd.DataFrame, Actions, dict[str, dict[str, int]]]:
    """Do what the asset `interventions` does."""
    wanted = actions(workspace, COURSES, RULES)
    planned = keep_interventions(workspace, COURSES, RULES, 100, wanted.exceptions)
    expose(workspace, wanted)
    sizes = {name: rows["arm"].value_counts().to_dict() for name, rows in wanted.exposed.items()}
    return planned, wanted, sizes


def test_arms_take_effect_on_students_at_risk_and_on_no_others(engine: Engine, settings: Settings):
    fill(engine, book())
    with at(engine, settings, 21) as workspace:
        with pytest.raises(ExperimentError, match="no strata by mood"):
            create(workspace, replace(PLAN, strata=("mood",)))
        create(workspace, PLAN)
        assert nightly.assignments(workspace) == []  # it has not begun
    with at(engine, settings, 22) as workspace:
        (first,) = nightly.assignments(workspace)
        assert first.new == 40 and set(first.arms.values()) == {20}
        assert nightly.assignments(workspace) == [replace(first, new=0)]
        assigned = store.assignments(workspace.connection, NAME).set_index("student_id")
        assert assigned.groupby(["stratum", "arm"]).size().tolist() == [10, 10, 10, 10]
        arm = assigned["arm"].to_dict()

        at_risk = NAMES[10:30]
        for course in COURSES:
            put_at_risk(workspace, course, at_risk if course == "math" else at_risk[:10])
        planned, _, exposed = nightly_run(workspace)
    of_plan = planned[planned["course_id"] == "math"].set_index("student_id")
    held = {name for name in at_risk if arm[name] == "none"}
    assert 0 < len(held) < len(at_risk)
    withheld = of_plan[of_plan["planned_on"].isna()]
    assert set(withheld.index) == held
    assert withheld["left_out"].str.contains("withheld by the experiment interventions-help").all()
    # The same students are helped in a course that the experiment does not name.
    assert planned.loc[planned["course_id"] == "art", "planned_on"].notna().all()
    assert exposed == {NAME: {"standard": len(at_risk) - len(held), "none": len(held)}}

    # On the next day only those who are at risk then, in whichever arm: what was planned before
    # and is still on the list says nothing.
    with at(engine, settings, 23) as workspace:
        put_at_risk(workspace, "math", at_risk[:4])
        planned, _, _ = nightly_run(workspace)
        nightly_run(workspace)
        seen = store.exposures(workspace.connection, NAME, on(23))
    assert {name for name in at_risk if arm[name] == "standard"} <= set(planned["student_id"])
    by_day = seen.groupby("on_day")["student_id"].agg(set).tolist()
    assert by_day == [set(at_risk), set(at_risk[:4])]
    assert (seen["arm"] == seen["student_id"].map(arm)).all()

    # A past day knows nothing of it, and a day after the last has no effect.
    for number in (21, 91):
        with at(engine, settings, number) as workspace:
            put_at_risk(workspace, "math", at_risk)
            planned, wanted, exposed = nightly_run(workspace)
            assert not wanted.exceptions and not exposed and planned["planned_on"].notna().all()


def test_another_table_holds_for_its_arm_and_a_lost_table_stops_its_experiment_only(
    engine: Engine, settings: Settings, tmp_path
):
    path = tmp_path / "own.csv"
    rows = [f"{driver},{timing},write,mentor,none" for driver in Driver for timing in Timing]
    path.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    arms = (Arm("now", action="standard", share=0.5), Arm("mentors", action=str(path), share=0.5))
    own = replace(PLAN, arms=arms, experiment_id="mentors", group="help", strata=())
    other = replace(PLAN, experiment_id="quiet", group="help", strata=("course",))
    fill(engine, book())
    with at(engine, settings, 22) as workspace:
        for plan in (own, other):
            create(workspace, plan)
        sizes = [sum(assignment.arms.values()) for assignment in nightly.assignments(workspace)]
        assert sum(sizes) == 40 and min(sizes) > 5  # no student is in both
        nightly.assignments(workspace)
        put_at_risk(workspace, "math", NAMES)
        planned, _, exposed = nightly_run(workspace)
        assert planned["owner"].eq("mentor").sum() == exposed["mentors"]["mentors"] > 0
        assert planned["planned_on"].isna().sum() == exposed["quiet"]["none"] > 0
    path.unlink()
    with at(engine, settings, 23) as workspace:
        put_at_risk(workspace, "math", NAMES)
        _, wanted, exposed = nightly_run(workspace)
    assert list(exposed) == ["quiet"]
    assert len(wanted.skipped) == 1 and "mentors has no effect today" in wanted.skipped[0]


def test_strata_of_which_nothing_is_known_are_refused():
    require_known(("course", "gender", "region"), SOURCES)
    with pytest.raises(ExperimentError, match="no strata by mood, student_id") as caught:
        require_known(("mood", "course", "student_id"), SOURCES)
    assert "course" in caught.value.remedy
