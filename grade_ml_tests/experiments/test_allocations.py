"""A bandit over nights, on a real database: assignments, late outcomes, shares that follow."""

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
    with at(engine, settings, 22) as some:
        later = schema.enrollment.c.student_id.in_(NAMES[20:])
        some.connection.execute(schema.enrollment.update().where(later).values(enrolled_on=on(23)))
        store.create(some.connection, PLAN, some.now, PLAN.owner, "by hand")
        shares = [Allocation(some.as_of, arm, p, {}) for arm, p in ((STANDARD, 0.95), (NONE, 0.05))]
        store.allocate(some.connection, PLAN.experiment_id, shares)
        assert nightly.assignments(some)[0].shares == {STANDARD: 0.5, NONE: 0.5}
    with at(engine, settings, 23) as some:
        assert nightly.assignments(some)[0].shares == {STANDARD: 0.95, NONE: 0.05}
        assigned = store.assignments(some.connection, PLAN.experiment_id)
        assert Counter(assigned["assigned_on"].dt.date) == {on(22): 20, on(23): 20}
        assert set(assigned["probability"]) <= {0.5, 0.95, 0.05}


def _answer(some: Workspace, helped: str) -> None:
    """Let those in one arm hand in what is due on day 30, and nobody else."""
    assigned = store.assignments(some.connection, PLAN.experiment_id)
    rows = [
        result(name, "math-30", 70, 29, 31, status="graded")
        for name in assigned.loc[assigned["arm"] == helped, "student_id"]
    ]
    insert_frame(some.connection, schema.result, gradebook(results=rows).results)


def _stored(some: Workspace) -> list[Allocation]:
    return store.allocations(some.connection, PLAN.experiment_id, date.max)


def test_shares_follow_rewards_that_come_late(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pending, then known; the same records, an odd bandit and a lost library change nothing."""
    fill(engine, book())
    other = replace(PLAN, experiment_id="another", courses=("art",), policy=Policy.UCB)
    with at(engine, settings, 22) as some:
        for plan in (PLAN, other):
            store.create(some.connection, plan, some.now, plan.owner, "by hand")
        nightly.assignments(some)
        exposed = store.assignments(some.connection, PLAN.experiment_id)
        columns = ["experiment_id", "student_id", "arm"]
        store.expose(some.connection, exposed[columns].assign(on_day=some.as_of))
        other_one, first = nightly.allocations(some)
        assert other_one.new and first.new
        assert {one.pending for one in first.totals.values()} <= set(range(10, 31))
        assert first.shares == {STANDARD: 0.5, NONE: 0.5}
        assert {one.reason for one in first.values} == {
            "it rests on 0.0 students, by weight, and takes 30"
        }
        before = _stored(some)
        assert [one.new for one in nightly.allocations(some)] == [False, False]
        assert _stored(some) == before
        _answer(some, helped=NONE)
    with at(engine, settings, 45) as some:
        # A student in an arm that was removed stops the other bandit only.
        gone = some.connection.execute(
            store.assignment.update()
            .where(store.assignment.c.experiment_id == "another")
            .values(arm="gone")
        )
        assert gone.rowcount == 20
        odd, learned = nightly.allocations(some)
        assert "arms that the plan lacks: gone" in odd.reason and not odd.new
        assert odd.shares == {STANDARD: 0.5, NONE: 0.5}
        # Most were helped by doing nothing, from which half of the students are kept all the same.
        assert learned.new and learned.shares == pytest.approx({STANDARD: 0.5, NONE: 0.5})
        assert learned.totals[NONE].mean == 1 and learned.totals[STANDARD].mean == 0
        kept = {one.arm: one for one in _stored(some) if one.as_of == some.as_of}
        states = {arm.name: kept[arm.name].state for arm in PLAN.arms}
        again = bandits.shares(
            bandits.restored(states, some.as_of),
            Policy(states[NONE]["policy"]),
            least_share=PLAN.least_share,
            seed=states[NONE]["seed"],
        )
        assert again == pytest.approx({STANDARD: 0.05, NONE: 0.95})
        assert bandits.capped(again, NONE, MOST_WITHHELD) == learned.shares
    with at(engine, settings, 44) as some:
        _, back = nightly.allocations(some)
        assert f"has learned until {on(45)}" in back.reason
        assert {one.as_of for one in _stored(some)} == {on(22), on(45)}
    with at(engine, settings, 46) as some:
        monkeypatch.setattr(optional, "find_spec", lambda module: None)
        _, without = nightly.allocations(some)
        assert "Install the extra grade-ml[bandits]" in without.reason
        assert without.shares == learned.shares
