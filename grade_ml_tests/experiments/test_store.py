"""What is stored of experiments comes back, and what is written again changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from sqlalchemy import Engine

from grade_ml.core.errors import ExperimentError, NotFoundError
from grade_ml.experiments import store
from grade_ml.experiments.plan import Decision, Kind, Look, Plan
from grade_ml.experiments.store import Allocation, Event, Experiment, Happened, State
from grade_ml_tests.experiments.plans import STARTS_ON, of_actions, of_models

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
SPLIT, SHADOW = of_actions(), of_models()
LOOK = Look(
    as_of=STARTS_ON,
    data_version="d1",
    looked_at=NOW,
    units=40,
    labels=80,
    fraction=0.08,
    difference=-1.5,
    low=-4.0,
    high=1.0,
    z=-1.2,
    bound=4.9,
    decision=Decision.CONTINUE,
    reason="too early",
    figures={"p_welch": 0.2},
    segments=({"kind": "course", "name": "course-1", "difference": -1.0},),
)


def test_plans_and_events_come_back_and_are_written_once(engine: Engine) -> None:
    happened = Event(Happened.DECIDED, NOW, "grade-ml", "it errs less", Decision.BETTER, {"z": 3.0})
    with engine.begin() as connection:
        for plan in (SPLIT, SHADOW, replace(SPLIT, hypothesis="Another.")):
            is_new = store.create(connection, plan, NOW, plan.owner, "created by hand")
            assert is_new is (plan in (SPLIT, SHADOW))
        with pytest.raises(ExperimentError, match="alpha"):
            store.create(connection, replace(SPLIT, alpha=2), NOW, "adviser", "")
        assert store.compared(connection) == [("pooled", 1), ("pooled", 2)]
        assert store.record(connection, SHADOW.experiment_id, happened)
        assert not store.record(connection, SHADOW.experiment_id, replace(happened, reason="no"))
    with engine.begin() as connection:
        opened = Event(Happened.OPENED, NOW, "adviser", "created by hand")
        split = Experiment(SPLIT, NOW, (opened,))
        shadow = Experiment(SHADOW, NOW, (replace(opened, by="grade-ml"), happened))
        assert store.read(connection) == [split, shadow]
        assert store.running(connection) == [split]
        assert (
            store.running(connection, Kind.SHADOW, Kind.WATCH) == store.compared(connection) == []
        )
        assert store.get(connection, SHADOW.experiment_id) == shadow
        assert (shadow.state, shadow.decision) == (State.DECIDED, Decision.BETTER)
        with pytest.raises(NotFoundError, match="no experiment nowhere"):
            store.get(connection, "nowhere")


def test_looks_shares_assignments_and_exposures_come_back_and_are_written_once(
    engine: Engine,
) -> None:
    later = replace(LOOK, data_version="d2", labels=90, fraction=math.nan, bound=math.inf)
    name, day = SPLIT.experiment_id, pd.Timestamp(STARTS_ON)
    assigned = pd.DataFrame(
        {
            "experiment_id": name,
            "student_id": ["s-1", "s-2"],
            "arm": ["standard", "none"],
            "stratum": "",
            "probability": 0.5,
            "assigned_on": day,
        }
    )
    exposed = pd.DataFrame(
        {"experiment_id": name, "student_id": ["s-1", "s-1"], "arm": "standard"}
    ).assign(on_day=[day, day + pd.Timedelta(days=1)])
    shares = [Allocation(STARTS_ON, arm, 0.5, {"pulls": 3}) for arm in ("none", "standard")]
    with engine.begin() as connection:
        store.create(connection, SPLIT, NOW, "adviser", "")
        assert [store.keep_look(connection, name, look) for look in (LOOK, later, LOOK)] == [
            *(True, True, False)
        ]
        store.assign(connection, assigned)
        store.assign(connection, assigned.assign(arm="none", probability=0.1))
        for _ in range(2):
            store.expose(connection, exposed)
            store.allocate(connection, name, shares)
    with engine.begin() as connection:
        first, second = store.looks(connection, name)
        assert first == LOOK
        assert math.isnan(second.fraction) and math.isnan(second.bound)
        rows = store.assignments(connection, name)
        assert list(rows["arm"]) == ["standard", "none"] and set(rows["probability"]) == {0.5}
        assert len(store.exposures(connection, name, STARTS_ON)) == 1
        assert len(store.exposures(connection, name, STARTS_ON + timedelta(days=1))) == 2
        assert store.allocations(connection, name, STARTS_ON) == shares
        assert store.allocations(connection, name, STARTS_ON - timedelta(days=1)) == []


def test_the_newest_look_is_the_last_of_its_day_though_it_saw_fewer_labels(engine: Engine) -> None:
    later = LOOK.looked_at + timedelta(hours=4)
    erased = replace(LOOK, data_version="fewer", labels=70, looked_at=later)
    with engine.begin() as connection:
        store.create(connection, SHADOW, NOW, "grade-ml", "")
        for look in (LOOK, erased):
            store.keep_look(connection, SHADOW.experiment_id, look)
        rows = store.looks(connection, SHADOW.experiment_id)
    assert [row.labels for row in rows] == [80, 70]


def _after(plan: Plan, *kinds: Happened, decision: Decision = Decision.BETTER) -> State:
    events = tuple(
        Event(kind, NOW, "", "", decision if kind is Happened.DECIDED else None)
        for kind in (Happened.OPENED, *kinds)
    )
    return Experiment(plan, NOW, events).state


def test_the_events_give_the_state_of_an_experiment() -> None:
    watch = replace(SHADOW, kind=Kind.WATCH)
    decided, vetoed, forced = Happened.DECIDED, Happened.VETOED, Happened.FORCED
    assert _after(SHADOW) is _after(watch) is _after(SPLIT) is State.RUNNING
    for kinds in ((decided,), (vetoed,), (forced,), (decided, vetoed)):
        assert _after(SHADOW, *kinds) is State.DECIDED
    for end in ("promoted", "rolled back", "retired", "stopped", "superseded", "failed"):
        assert _after(SHADOW, decided, Happened(end)) is State.ENDED
    assert _after(watch, decided, decision=Decision.WORSE) is State.DECIDED
    assert _after(watch, decided, decision=Decision.NO_DIFFERENCE) is State.ENDED
    assert _after(watch, decided, vetoed, decision=Decision.WORSE) is State.ENDED
    assert _after(watch, vetoed) is _after(SPLIT, vetoed) is _after(SPLIT, decided) is State.ENDED
