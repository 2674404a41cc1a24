"""A bandit over nightly runs, on a real database: assignments, late outcomes, its shares."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import date

import pytest
from sqlalchemy import Engine

from grade_ml.core import optional
from grade_ml.core.database import insert_frame
from grade_ml.core.settings import Settings
from grade_ml.experiments import bandits, nightly, store
from grade_ml.experiments.plan import MOST_WITHHELD, Kind, Policy
from grade_ml.experiments.store import Allocation
from grade_ml.gradebook import schema
from grade_ml.registry.workspace import Workspace
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.experiments.plans import of_actions
from grade_ml_tests.experiments.split import NAMES, at, book, on
from grade_ml_tests.features.records import gradebook, result

PLAN = of_actions(kind=Kind.BANDIT, starts_on=on(22), courses=("math",))
STANDARD, NONE = (arm.name for arm in PLAN.arms)


def test_newcomers_are_assigned_by_the_shares_of_an_earlier_day(
    engine: Engine, settings: Settings
) -> None:
    fill(engine, book())
    with at(engine, settings, 22) as workspace:
        later = schema.enrollment.c.student_id.in_(NAMES[20:])
        workspace.connection.execute(
            schema.enrollment.update().where(later).values(enrolled_on=on(23))
        )
        store.create(workspace.connection, PLAN, workspace.now, PLAN.owner, "by hand")
        shares = [
            Allocation(workspace.as_of, arm, p, {}) for arm, p in ((STANDARD, 0.95), (NONE, 0.05))
        ]
        store.allocate(workspace.connection, PLAN.experiment_id, shares)
        assert nightly.assignments(workspace)[0].shares == {STANDARD: 0.5, NONE: 0.5}
    with at(engine, settings, 23) as workspace:
        assert nightly.assignments(workspace)[0].shares == {STANDARD: 0.95, NONE: 0.05}
        assigned = store.assignments(workspace.connection, PLAN.experiment_id)
        assert Counter(assigned["assigned_on"].dt.date) == {on(22): 20, on(23): 20}
        assert set(assigned["probability"]) <= {0.5, 0.95, 0.05}


def _answer(workspace: Workspace, helped: str) -> None:
    """Let only the students of one arm hand in what is due on day 30."""
    assigned = store.assignments(workspace.connection, PLAN.experiment_id)
    rows = [
        result(name, "math-30", 70, 29, 31, status="graded")
        for name in assigned.loc[assigned["arm"] == helped, "student_id"]
    ]
    insert_frame(workspace.connection, schema.result, gradebook(results=rows).results)


def _stored(workspace: Workspace) -> list[Allocation]:
    return store.allocations(workspace.connection, PLAN.experiment_id, date.max)


def test_shares_follow_rewards_that_come_late(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pending, then known; the same records, an odd bandit and a lost library change nothing."""
    fill(engine, book())
    other = replace(PLAN, experiment_id="another", courses=("art",), policy=Policy.UCB)
    with at(engine, settings, 22) as workspace:
        for plan in (PLAN, other):
            store.create(workspace.connection, plan, workspace.now, plan.owner, "by hand")
        nightly.assignments(workspace)
        exposed = store.assignments(workspace.connection, PLAN.experiment_id)
        columns = ["experiment_id", "student_id", "arm"]
        store.expose(workspace.connection, exposed[columns].assign(on_day=workspace.as_of))
        of_other, first = nightly.allocations(workspace)
        assert of_other.new and first.new
        assert {totals.pending for totals in first.totals.values()} <= set(range(10, 31))
        assert first.shares == {STANDARD: 0.5, NONE: 0.5}
        assert {allocation.reason for allocation in first.values} == {
            "it rests on 0.0 students, by weight, and takes 30"
        }
        before = _stored(workspace)
        assert [allocation.new for allocation in nightly.allocations(workspace)] == [False, False]
        assert _stored(workspace) == before
        _answer(workspace, helped=NONE)
    with at(engine, settings, 45) as workspace:
        # A student in an arm that was removed stops the other bandit only.
        gone = workspace.connection.execute(
            store.assignment.update()
            .where(store.assignment.c.experiment_id == "another")
            .values(arm="gone")
        )
        assert gone.rowcount == 20
        odd, learned = nightly.allocations(workspace)
        assert "arms that the plan lacks: gone" in odd.reason and not odd.new
        assert odd.shares == {STANDARD: 0.5, NONE: 0.5}
        # Most were helped by doing nothing, from which half of the students are kept all the same.
        assert learned.new and learned.shares == pytest.approx({STANDARD: 0.5, NONE: 0.5})
        assert learned.totals[NONE].mean == 1 and learned.totals[STANDARD].mean == 0
        kept = {
            allocation.arm: allocation
            for allocation in _stored(workspace)
            if allocation.as_of == workspace.as_of
        }
        states = {arm.name: kept[arm.name].state for arm in PLAN.arms}
        again = bandits.shares(
            bandits.restored(states, workspace.as_of),
            Policy(states[NONE]["policy"]),
            least_share=PLAN.least_share,
            seed=states[NONE]["seed"],
        )
        assert again == pytest.approx({STANDARD: 0.05, NONE: 0.95})
        assert bandits.capped(again, NONE, MOST_WITHHELD) == learned.shares
    with at(engine, settings, 44) as workspace:
        _, back = nightly.allocations(workspace)
        assert f"has learned until {on(45)}" in back.reason
        assert {allocation.as_of for allocation in _stored(workspace)} == {on(22), on(45)}
    with at(engine, settings, 46) as workspace:
        monkeypatch.setattr(optional, "find_spec", lambda module: None)
        _, without = nightly.allocations(workspace)
        assert "grade-ml[bandits]" in without.reason
        assert without.shares == learned.shares
