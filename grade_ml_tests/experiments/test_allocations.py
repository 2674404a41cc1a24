"""A bandit over nights, on a real database: assignments, late outcomes, shares that follow."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.experiments import nightly, store
from grade_ml.experiments.plan import Kind
from grade_ml.experiments.store import Allocation
from grade_ml.gradebook import schema
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.experiments.plans import of_actions
from grade_ml_tests.experiments.split import NAMES, at, book, on

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
