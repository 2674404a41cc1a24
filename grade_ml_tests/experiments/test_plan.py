"""Plans: what cannot be run is refused with its reason, and what is stored comes back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta

import pytest

from grade_ml.core.errors import ExperimentError
from grade_ml.experiments.plan import Arm, Decision, Kind, Metric, Plan, checked
from grade_ml_tests.experiments.plans import STARTS_ON, of_actions, of_models

FULL = of_actions(
    0.2,
    0.3,
    0.5,
    group="advising",
    strata=("course_id",),
    stops_on=STARTS_ON + timedelta(days=30),
    planned_labels=None,
    minimum_effect=0.1,
    least_share=0.1,
)


@pytest.mark.parametrize("plan", [of_models(), of_actions(), of_actions(0.3, 0.3, 0.4), FULL])
def test_a_plan_comes_back_from_json(plan: Plan) -> None:
    assert Plan.from_dict(json.loads(json.dumps(checked(plan).to_dict()))) == plan
    assert (plan.control, *plan.treatments) == plan.arms


def arms(*shares: float, **changes: object) -> tuple[Arm, ...]:
    return tuple(
        replace(Arm(f"a{n}", action=f"t{n}", share=share), **changes)
        for n, share in enumerate(shares)
    )


MODELS = of_models().arms


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (of_models(experiment_id="Pooled 2"), "its id may consist of a-z"),
        (of_models(experiment_id="a" * 64), "its id may consist of a-z"),
        (of_models(experiment_id="-a"), "its id may consist of a-z"),
        (of_models(hypothesis=" "), "its hypothesis is empty"),
        (of_models(hypothesis="x" * 501), "its hypothesis may have at most 500"),
        (of_models(owner="a\0b"), "no NUL"),
        (of_models(subject=""), "its subject is empty"),
        (of_models(metric=Metric.SUBMITTED), "measures score_error, grade_error, risk_error"),
        (of_actions(metric=Metric.RISK_ERROR), "measures score, submitted, passed"),
        (of_models(courses=("a", "a")), "its courses hold a value twice"),
        (of_models(courses=("",)), "or an empty one"),
        (of_models(group="one"), "neither group nor strata"),
        (of_actions(group="One!"), "its group may consist of"),
        (of_models(arms=MODELS[:1]), "fewer than two arms"),
        (of_models(arms=()), "fewer than two arms"),
        (of_models(arms=(MODELS[0], replace(MODELS[1], name="champion"))), "have one name"),
        (of_models(arms=(MODELS[0], replace(MODELS[1], name="<b>"))), "'<b>' may consist of"),
        (of_models(arms=(*MODELS, Arm("third", ("pooled", 3)))), "has two arms"),
        (of_models(arms=(MODELS[0], Arm("b", action="none"))), "is a version of a model"),
        (of_models(arms=(MODELS[0], Arm("b", ("baseline", 2)))), "are versions of one model"),
        (of_models(1, 1), "are the same version"),
        (
            of_models(arms=(MODELS[0], replace(MODELS[1], share=0.5))),
            "is 1: both score all students",
        ),
        (of_actions(kind=Kind.SPLIT, arms=arms(0.3, 0.3, 0.4)), "has two arms"),
        (of_actions(arms=arms(0.5, 0.5, action="x")), "two of its arms have one action"),
        (of_actions(arms=arms(0.5, 0.5, action=None)), "is an action"),
        (of_actions(0.5, 0.4), "add up to 0.9, not to 1"),
        (of_actions(math.nan, 0.5), "lies between 0 and 1"),
        (of_actions(1, 0), "lies between 0 and 1"),
        (of_actions(0.97, 0.03), "below 0.05, the least that each keeps"),
        (of_actions(least_share=0.6), "cannot each keep 0.6"),
        (of_actions(0.3, 0.3, 0.4, least_share=0), "keeps some students"),
        (of_models(planned_labels=0), "fewer than one label"),
        (of_models(stops_on=STARTS_ON), "its last day is not after its first"),
        (of_models(alpha=0), "alpha is 0"),
        (of_models(alpha=math.nan), "alpha is nan"),
        (of_models(power=0.01), "the power is 0.01"),
        (of_models(alpha=1e-12), "alpha is 1e-12 and must lie between 1e-06 and 0.5"),
        (of_models(power=1 - 1e-15), "must lie between alpha and 0.999"),
        (of_models(minimum_effect=math.inf), "the smallest effect is inf"),
        (of_models(minimum_effect=1e-200), "effect is 1e-200 and must lie between 1e-06"),
        (of_models(minimum_effect=1e300), "the smallest effect is 1e+300"),
        (of_models(planned_labels=10**400), "more than 1,000,000,000 labels"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_with_its_reason(plan: Plan, reason: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        checked(plan)
    assert reason in caught.value.message and "Correct it" in caught.value.remedy


def test_better_has_the_sign_of_the_metric() -> None:
    assert {metric: metric.better for metric in Metric} == {
        Metric.SCORE_ERROR: -1,
        Metric.GRADE_ERROR: -1,
        Metric.RISK_ERROR: -1,
        Metric.SCORE: 1,
        Metric.SUBMITTED: 1,
        Metric.PASSED: 1,
    }
    assert {decision for decision in Decision if decision.is_final} == {
        Decision.BETTER,
        Decision.WORSE,
        Decision.NO_DIFFERENCE,
    }
