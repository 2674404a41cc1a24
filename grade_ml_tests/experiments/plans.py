"""Plans that tests of this folder begin with."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from grade_ml.experiments.plan import NOTHING, STANDARD, Arm, Kind, Metric, Plan

STARTS_ON = date(2026, 3, 2)


def of_models(control: int = 1, treatment: int = 2, **changes: Any) -> Plan:
    """Return a shadow of two versions of the pooled model."""
    plan = Plan(
        experiment_id=f"pooled-{treatment}-against-{control}",
        kind=Kind.SHADOW,
        subject="pooled",
        hypothesis="The newer version errs less.",
        arms=(
            Arm("champion", model=("pooled", control)),
            Arm("challenger", model=("pooled", treatment)),
        ),
        metric=Metric.SCORE_ERROR,
        starts_on=STARTS_ON,
        owner="grade-ml",
        planned_labels=1000,
    )
    return replace(plan, **changes)


def of_actions(*shares: float, **changes: Any) -> Plan:
    """Return a split (of more than two shares, a bandit) between actions."""
    shares = shares or (0.5, 0.5)
    actions = (STANDARD, NOTHING, *(f"table-{n}.csv" for n in range(2, len(shares))))
    plan = Plan(
        experiment_id="interventions-help",
        kind=Kind.SPLIT if len(shares) == 2 else Kind.BANDIT,
        subject="interventions",
        hypothesis="Acting on risk periods helps.",
        arms=tuple(
            Arm(action, action=action, share=share)
            for action, share in zip(actions, shares, strict=False)
        ),
        metric=Metric.SUBMITTED,
        starts_on=STARTS_ON,
        owner="adviser",
        stops_on=STARTS_ON + timedelta(days=120),
        courses=("course-1", "course-2"),
    )
    return replace(plan, **changes)
