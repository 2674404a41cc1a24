"""What the arms that were not chosen are worth: unbiased, with honest errors, or refused."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grade_ml.experiments import off_policy

_rewards = st.lists(
    st.tuples(*[st.floats(0, 1, allow_subnormal=False)] * 2), min_size=2, max_size=4
)


@settings(max_examples=12)
@given(_rewards, st.data())
def test_the_value_of_an_arm_is_unbiased_for_every_logged_policy(
    potential: list[tuple[float, float]], data: st.DataObject
) -> None:
    """Over all assignments that a policy may make, the mean estimate is the truth exactly."""
    number = len(potential)
    first = data.draw(st.lists(st.floats(0.1, 0.9), min_size=number, max_size=number))
    covariate = data.draw(
        st.lists(st.one_of(st.just(np.nan), st.floats(-5, 5)), min_size=number, max_size=number)
    )
    ips = robust = 0.0
    for arms in product((0, 1), repeat=number):
        chances = np.array([p if arm == 0 else 1 - p for p, arm in zip(first, arms, strict=True)])
        log = pd.DataFrame(
            {
                "arm": np.array(["a", "b"], object)[list(arms)],
                "probability": chances,
                "reward": [rewards[arm] for rewards, arm in zip(potential, arms, strict=True)],
                "covariate": covariate,
            }
        )
        if all(arms):
            continue  # no student got the arm, so that either estimate is 0
        value = off_policy.values(log, ["a"], least_effective=0)[0]
        ips += chances.prod() * value.ips
        robust += chances.prod() * value.doubly_robust
    truth = np.mean([rewards[0] for rewards in potential])
    assert ips == pytest.approx(truth, abs=1e-9)
    assert robust == pytest.approx(truth, abs=1e-9)


def _logged(students: int, seed: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Draw students who got more of the second arm the later they came, and the better they were.

    The plain mean of an arm is then far from what it is worth.
    """
    chance = np.random.default_rng(seed)
    level = chance.random(students)
    second = np.clip(0.1 + 0.8 * level, 0.1, 0.9)
    took = chance.random(students) < second
    worth = {"a": 0.1 + 0.7 * level, "b": 0.2 + 0.7 * level}
    reward = chance.random(students) < np.where(took, worth["b"], worth["a"])
    log = pd.DataFrame(
        {
            "arm": np.where(took, "b", "a"),
            "probability": np.where(took, second, 1 - second),
            "reward": reward.astype(float),
            "covariate": np.where(chance.random(students) < 0.9, level, np.nan),
        }
    )
    return log, {arm: float(rewards.mean()) for arm, rewards in worth.items()}


def test_intervals_of_the_value_hold_the_truth_where_the_plain_mean_does_not() -> None:
    covered = {"ips": 0, "normalised": 0, "doubly_robust": 0}
    widths = dict.fromkeys(covered, 0.0)
    plain = rounds = 0
    for seed in range(30):
        log, truth = _logged(400, seed)
        for value in off_policy.values(log, ["a", "b"]):
            rounds += 1
            for name in covered:
                error = getattr(value, f"{name}_error")
                covered[name] += abs(getattr(value, name) - truth[value.arm]) < 1.96 * error
                widths[name] += error
            mean = log.loc[log["arm"] == value.arm, "reward"]
            plain += abs(mean.mean() - truth[value.arm]) < 1.96 * mean.std() / len(mean) ** 0.5
    assert min(covered.values()) > 0.88 * rounds
    assert plain < 0.5 * rounds
    # What a model explains, the doubly robust estimate need not leave to chance.
    assert widths["doubly_robust"] < widths["normalised"] < widths["ips"]


def test_a_value_that_cannot_be_known_is_refused_with_the_reason() -> None:
    log, _ = _logged(400, 0)
    good = off_policy.values(log, ["a", "b"])
    assert not any(value.reason for value in good)
    pending = pd.concat([log, log.assign(reward=np.nan)], ignore_index=True)
    assert off_policy.values(pending, ["a", "b"]) == good

    def refused(changed: pd.DataFrame, arm: str, words: str) -> None:
        value = off_policy.values(changed, [arm])[0]
        assert words in value.reason
        assert np.isnan([value.ips, value.normalised, value.doubly_robust, value.ips_error]).all()

    mine = log["arm"] == "a"
    for odd in (0.0, np.nan, 1.5):
        changed = log.assign(probability=log["probability"].where(~mine, odd))
        refused(changed, "a", "the probability is 0 or unknown")
        assert off_policy.values(changed, ["b"]) == good[1:]
    few = log[~mine | (mine.cumsum() <= 12)]
    refused(few, "a", "students, by weight, and takes 30")
    refused(log, "never", "it rests on 0.0 students")
    # A few who were hardly ever given the arm outweigh the rest.
    rare = log["probability"].where(~(mine & (mine.cumsum() <= 3)), 1e-6)
    refused(log.assign(probability=rare), "a", "it rests on 3.0 students")
    refused(log.assign(reward=np.inf), "a", "endless")
    refused(log.head(0), "a", "it rests on 0.0 students")
