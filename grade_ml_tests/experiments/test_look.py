"""What a look decides, from values made up: bounds, what forbids a claim, and odd input."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.errors import ExperimentError
from grade_ml.experiments.comparison import paired, sample_ratio, split
from grade_ml.experiments.crossed import crossed
from grade_ml.experiments.guardrails import Guardrail, State, calibration
from grade_ml.experiments.labels import Labels
from grade_ml.experiments.look import Seen, look, of_labels, of_outcomes
from grade_ml.experiments.outcomes import Outcomes
from grade_ml.experiments.plan import NOTHING, STANDARD, Decision, Kind, Look, Plan
from grade_ml_tests.experiments.plans import STARTS_ON, of_actions, of_models

STUDENTS = 200
SHADOW = of_models(planned_labels=400)
WATCH = replace(SHADOW, kind=Kind.WATCH)
#: By how much the treatment's squared error is lower, in standard deviations of the difference.
NOISE = np.random.default_rng(0).standard_normal(2000)


def losses(gain: float, students: int = STUDENTS, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    control = np.full(students, 100.0)
    return control, control - gain * 10 + 10 * NOISE[start : start + students]


def seen(gain: float, students: int = STUDENTS, **changes: object) -> Seen:
    return Seen(
        **{
            "comparison": paired(*losses(gain, students)),
            "labels": students,
            "data_version": f"{gain} {students}",
            **changes,
        }
    )


def looked(plan: Plan, observed: Seen, *earlier: Look, on: date | None = None) -> Look:
    day = on or STARTS_ON + timedelta(days=7 * len(earlier))
    now = datetime.combine(day, datetime.min.time(), UTC)
    return look(plan, observed, earlier, day, now)


def test_a_bound_crossed_decides_and_the_interval_agrees() -> None:
    better = looked(SHADOW, seen(1.0))
    assert better.decision is Decision.BETTER
    assert better.difference < 0 and better.high < 0 and abs(better.z) > better.bound
    worse = looked(SHADOW, seen(-1.0))
    assert worse.decision is Decision.WORSE and worse.low > 0
    unsure = looked(SHADOW, seen(0.0))
    assert unsure.decision is Decision.CONTINUE
    assert unsure.low < 0 < unsure.high and "within the bound" in unsure.reason


def test_early_looks_require_more_and_a_watch_less_of_it() -> None:
    bounds = [looked(plan, seen(0.0, 40)).bound for plan in (SHADOW, WATCH)]
    assert math.isnan(bounds[0]) or bounds[0] > 6
    assert 2.5 < bounds[1] < 3.5
    # Of an outcome, more is better.
    values = np.concatenate([NOISE[:100], NOISE[100:200] + 2])
    actions = of_actions(planned_labels=200)
    observed = Seen(split(values, np.arange(200) >= 100), 200, "v")
    assert looked(actions, observed).decision is Decision.BETTER
    less = Seen(split(-values, np.arange(200) >= 100), 200, "v")
    assert looked(actions, less).decision is Decision.WORSE


def test_all_planned_labels_without_a_crossing_find_no_difference() -> None:
    first = looked(SHADOW, seen(0.02, 150))
    last = looked(SHADOW, seen(0.02, 400), first)
    assert first.decision is Decision.CONTINUE
    assert (last.fraction, last.decision) == (1, Decision.NO_DIFFERENCE)
    # The last day spends what is left, with all labels there are.
    ends = replace(SHADOW, stops_on=STARTS_ON + timedelta(days=7))
    early = looked(ends, seen(0.02, 200), first)
    assert (early.fraction, early.decision) == (1, Decision.NO_DIFFERENCE)


def test_where_a_last_look_may_claim_nothing_it_does_not_say_that_no_bound_was_crossed() -> None:
    few = looked(replace(SHADOW, planned_labels=20), seen(1.0, 20))
    assert few.decision is Decision.NO_DIFFERENCE and "Fewer than 30 students" in few.reason
    blocked = looked(SHADOW, seen(1.0, 400, guardrails=(BROKEN,)))
    after = looked(SHADOW, seen(1.0, 450), blocked)
    assert (blocked.decision, after.decision) == (Decision.BLOCKED, Decision.NO_DIFFERENCE)
    for blocked_look in (few, after):
        assert "may claim nothing" in blocked_look.reason and "crossed" not in blocked_look.reason


def test_an_open_horizon_is_decided_by_a_confidence_sequence() -> None:
    plan = replace(SHADOW, planned_labels=None)
    first = looked(plan, seen(0.1, 100))
    assert first.decision is Decision.CONTINUE and math.isnan(first.fraction)
    assert 3 < first.bound < 5
    assert looked(plan, seen(0.5, 300), first).decision is Decision.BETTER
    assert looked(plan, seen(0.5, 20)).decision is Decision.CONTINUE


def test_no_new_label_is_no_look_and_the_clock_does_not_go_back() -> None:
    first = looked(SHADOW, seen(0.0, 100))
    again = looked(SHADOW, seen(0.0, 100), first)
    assert again.decision is Decision.SKIPPED and "since the last look" in again.reason
    assert looked(SHADOW, seen(0.0, 100, labels=0)).decision is Decision.SKIPPED
    with pytest.raises(ExperimentError, match=f"was looked at as of {STARTS_ON}"):
        looked(SHADOW, seen(0.0, 150), first, on=STARTS_ON - timedelta(days=1))


def test_what_was_spent_stays_spent_when_students_are_erased() -> None:
    first = looked(SHADOW, seen(0.0, 300))
    fewer = looked(SHADOW, seen(0.0, 250), first)
    alone = looked(SHADOW, seen(0.0, 250))
    assert fewer.decision is Decision.CONTINUE
    # With nothing new there is nothing to spend; alone it would have a bound.
    assert math.isnan(fewer.bound) and math.isfinite(alone.bound)


BROKEN = Guardrail("bias", State.BROKEN, "Predictions are 5 points too high")
UNKNOWN = Guardrail("brier", State.UNKNOWN, "too few")


def test_what_forbids_a_claim_blocks_it_and_is_named() -> None:
    blocked = looked(SHADOW, seen(1.0, guardrails=(BROKEN, UNKNOWN)))
    assert blocked.decision is Decision.BLOCKED and "5 points too high" in blocked.reason
    assert looked(SHADOW, seen(1.0, guardrails=(UNKNOWN,))).decision is Decision.BETTER
    assert looked(SHADOW, seen(-1.0, guardrails=(BROKEN,))).decision is Decision.WORSE
    odd = {"problems": ("Records of one course are gone.",)}
    for gain in (1.0, -1.0):
        assert looked(SHADOW, seen(gain, **odd)).decision is Decision.BLOCKED
    # Harm of what serves is acted on, in spite of any doubt.
    assert looked(WATCH, seen(-1.0, **odd)).decision is Decision.WORSE
    assert looked(WATCH, seen(1.0, **odd)).decision is Decision.BLOCKED
    sizes = sample_ratio({"standard": 400, "none": 250}, {"standard": 0.5, "none": 0.5})
    values = np.concatenate([NOISE[:100], NOISE[100:200] + 2])
    observed = Seen(split(values, np.arange(200) >= 100), 200, "v", sizes=sizes)
    uneven = looked(of_actions(planned_labels=200), observed)
    assert uneven.decision is Decision.BLOCKED and "400" in uneven.reason


ODD = {
    "an arm without units": split(NOISE[:50], np.zeros(50, bool)),
    "one unit": paired(*losses(1.0, 1)),
    "no unit": paired([], []),
    "identical values": paired(np.ones(50), np.ones(50)),
    "a constant difference": paired(np.ones(50), np.zeros(50)),
    "infinite": paired(np.append(losses(1.0)[0], 1.0), np.append(losses(1.0)[1], np.inf)),
    "missing": paired(np.append(losses(1.0)[0], np.nan), np.append(losses(1.0)[1], 1.0)),
    "too few": paired(*losses(1.0, 29)),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("planned", [None, 50, 500])
def test_odd_input_promotes_nothing_and_gives_the_reason(name: str, planned: int | None) -> None:
    plan = replace(SHADOW, planned_labels=planned)
    result = looked(plan, Seen(ODD[name], 50, "v"))
    assert result.decision not in (Decision.BETTER, Decision.WORSE)
    assert result.reason and "nan" not in result.reason


def labels(rows: pd.DataFrame, **changes: pd.DataFrame) -> Labels:
    nothing = pd.DataFrame(
        {
            "student": pd.Series(dtype="uint64"),
            "final_grade": pd.Series(dtype=float),
            "at_risk": pd.Series(dtype="boolean"),
            **{
                f"{arm}_{name}": pd.Series(dtype=float)
                for arm in ("control", "treatment")
                for name in ("grade", "risk", "lower80", "upper80")
            },
        }
    )
    no_students = pd.DataFrame(index=pd.Index([], dtype="uint64", name="student"))
    values = {"outcomes": nothing, "groups": no_students}
    return Labels(rows, **(values | changes), early=3, stale=2, data_version="v")


def rows_of(control: np.ndarray, treatment: np.ndarray) -> pd.DataFrame:
    """Return two labels per student with the given errors."""
    students = np.repeat(np.arange(len(control) // 2, dtype=np.uint64), 2)
    return pd.DataFrame(
        {
            "section_id": "s",
            "course": "c",
            "student": students,
            "item": np.random.default_rng(2).integers(0, 8, len(control)).astype(str),
            "phase": "first third",
            "arrived_on": pd.Timestamp(STARTS_ON),
            "control": control**2,
            "treatment": treatment**2,
            "control_error": control,
            "treatment_error": treatment,
        }
    )


def state(guardrails: list[Guardrail], name: str) -> State:
    return next(guardrail.state for guardrail in guardrails if guardrail.name == name)


def test_students_count_once_and_what_was_left_out_is_reported() -> None:
    error = 10 * NOISE[:400]
    observed = of_labels(SHADOW, labels(rows_of(error, error * 0.8)))
    assert observed.comparison.units == (200, 200) and observed.labels == 400
    assert observed.notes == {"labels_early": 3, "labels_stale": 2, "missing": 0}
    holes = rows_of(error, np.where(np.arange(400) == 7, np.nan, error * 0.8))
    observed = of_labels(SHADOW, labels(holes))
    assert (observed.comparison.units, observed.comparison.excluded) == ((199, 199), 1)
    assert looked(SHADOW, observed).decision is not Decision.BETTER


@pytest.mark.parametrize("huge", [1e40, 1e60, 1e150, np.inf])
def test_a_prediction_beyond_all_measure_is_left_out_and_forbids_a_claim(huge: float) -> None:
    error = 10 * NOISE[:400]
    plan = replace(SHADOW, planned_labels=1000)
    far = np.where(np.arange(400) == 7, huge, 0.8 * error)
    result = looked(plan, of_labels(plan, labels(rows_of(error, far))))
    assert result.decision in (Decision.CONTINUE, Decision.BLOCKED) and "nan" not in result.reason
    assert "missing or infinite" in result.reason or "too far apart" in result.reason


def test_a_bias_is_a_broken_guardrail_only_where_it_is_large_and_significant() -> None:
    error = 10 * NOISE[:400]
    error -= error.mean()
    assert state(calibration(labels(rows_of(error, error))), "bias") is State.OK
    assert state(calibration(labels(rows_of(error, error - 3))), "bias") is State.BROKEN
    assert state(calibration(labels(rows_of(error, error + 1))), "bias") is State.OK
    assert state(calibration(labels(rows_of(error - 5, error + 3))), "bias") is State.OK
    assert state(calibration(labels(rows_of(error[:20], error[:20] + 9))), "bias") is State.UNKNOWN
    assert state(calibration(labels(rows_of(error, error))), "brier") is State.UNKNOWN


def over(risk: np.ndarray, width: float) -> pd.DataFrame:
    """Return outcomes of 600 students, of whom a third fail; the control is calibrated."""
    number = np.arange(600)
    fails = number % 3 == 0
    grade = 60 + 10 * NOISE[:600]
    result = {"control": (np.full(600, 1 / 3), 12.8), "treatment": (risk, width)}
    return pd.DataFrame(
        {
            "student": number.astype(np.uint64),
            "final_grade": grade,
            "at_risk": pd.array(fails, dtype="boolean"),
            **{
                f"{arm}_{name}": values
                for arm, (risks, half) in result.items()
                for name, values in {
                    "grade": np.full(600, 60.0),
                    "risk": risks,
                    "lower80": np.full(600, 60 - half),
                    "upper80": np.full(600, 60 + half),
                }.items()
            },
        }
    )


def test_outcomes_hold_calibration_brier_score_and_coverage() -> None:
    rows = rows_of(NOISE[:400], NOISE[:400])
    calm = calibration(labels(rows, outcomes=over(np.full(600, 0.34), 12.8)))
    names = ("calibration", "brier", "coverage80")
    assert [state(calm, name) for name in names] == [State.OK] * 3
    wrong = calibration(labels(rows, outcomes=over(np.full(600, 0.6), 6.0)))
    assert [state(wrong, name) for name in names] == [State.BROKEN] * 3
    text = next(guardrail.text for guardrail in wrong if guardrail.name == "brier")
    assert "was 0.222" in text


def test_a_group_that_pays_for_the_others_blocks_a_promotion() -> None:
    error = 10 * NOISE[:800]
    few = np.repeat(np.arange(400) % 4 == 0, 2)
    treatment = error * np.where(few, 1.3, 0.6)
    people = np.arange(400, dtype=np.uint64)
    groups = pd.DataFrame(
        {"protected_sex": np.where(people % 4 == 0, "F", "M")}, pd.Index(people, name="student")
    )
    observed = of_labels(SHADOW, labels(rows_of(error, treatment), groups=groups))
    assert {(row.kind, row.name) for row in observed.segments.rows} >= {
        ("attribute sex", "F"),
        ("attribute sex", "M"),
        ("course", "c"),
    }
    result = looked(SHADOW, observed)
    assert result.decision is Decision.BLOCKED and "attribute sex F" in result.reason
    assert "attribute sex M" not in result.reason
    assert {segment["name"] for segment in result.segments} == {"F", "M", "c", "first third"}
    fair = of_labels(SHADOW, labels(rows_of(error, error * 0.6), groups=groups))
    assert looked(SHADOW, fair).decision is Decision.BETTER


def outcomes(values: np.ndarray, treated: np.ndarray, **changes: object) -> Outcomes:
    frame = pd.DataFrame(
        {
            "student_id": [f"s{number}" for number in range(len(values))],
            "arm": np.where(treated, NOTHING, STANDARD),
            "course": "c",
            "section_id": "s",
            "phase": "first third",
            "value": values,
            "covariate": np.nan,
            "exposed_on": pd.Timestamp(STARTS_ON),
        }
    )
    sizes = {STANDARD: int((~treated).sum()), NOTHING: int(treated.sum())}
    return Outcomes(frame, **({"exposed": sizes, "excluded": {}} | changes))


def test_actions_are_compared_by_student_and_arms_without_any_say_so() -> None:
    plan = of_actions(planned_labels=400)
    treated = np.arange(400) % 2 == 1
    guardrails = outcomes(0.5 + 0.1 * NOISE[400:800], treated, excluded={"seen in two arms": 2})
    result = looked(plan, of_outcomes(plan, guardrails, "v"))
    assert (result.units, result.labels) == (400, 400)
    assert result.decision is Decision.NO_DIFFERENCE
    assert result.figures["seen in two arms"] == 2 and result.figures["sample_ratio"]["p"] == 1
    helps = outcomes(0.5 + 0.1 * (NOISE[400:800] + treated), treated)
    assert looked(plan, of_outcomes(plan, helps, "v")).decision is Decision.BETTER
    none = outcomes(np.zeros(0), np.zeros(0, bool))
    assert looked(plan, of_outcomes(plan, none, "v")).decision is Decision.SKIPPED
    few = outcomes(NOISE[:3], np.array([True, True, True]))
    without_students = looked(plan, of_outcomes(plan, few, "v"))
    assert (
        without_students.decision is Decision.CONTINUE and "no student" in without_students.reason
    )


def test_assignments_that_a_version_foresees_alike_are_not_so_many_labels() -> None:
    """Neither version is better, but for each assignment one version is, for all students."""
    students, items = np.divmod(np.arange(2400), 12)
    random = np.random.default_rng(1)
    claimed = {"students alone": 0, "assignments, too": 0}
    for _ in range(100):
        shift = 10 * random.standard_normal(12)[items] + 20 * random.standard_normal(2400)
        means = np.bincount(students, shift) / 12
        alone = paired(np.zeros(200), means, labels=2400)
        both = crossed(alone, shift, pd.Series(students), pd.Series(items))
        claimed["students alone"] += abs(alone.z) > 1.96
        claimed["assignments, too"] += abs(both.z) > 1.96
    assert claimed["students alone"] > 40
    assert claimed["assignments, too"] <= 10
    four = items < 4
    few = crossed(alone, shift[four], pd.Series(students[four]), pd.Series(items[four]))
    assert math.isnan(few.z) and "4 assignments" in few.problems[-1]
    assert math.isnan(few.information)
