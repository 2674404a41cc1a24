"""The part of `experiments.py` about bandits: the cost of learning which arm is the best.

Nothing is run from here; `python benchmarks/experiments.py --only bandit` does.
"""

from __future__ import annotations

import argparse
import math
from datetime import date
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from mabwiser.mab import MAB, LearningPolicy

from grade_ml.experiments.bandits import Cohort, begun, shares

#: Chances of a reward, by set of arms; the first two figures of the result are theirs.
SETS = {"a": (0.5, 0.55, 0.6), "b": (0.3, 0.6)}
#: Students after which the regret is read: the first for itself, the others for its slope.
MARKS = (1000, 5000, 20_000)
#: Up to the first mark one student at a time; later one in a hundred of those so far at once.
_BATCH = 100
#: Runs at most: one takes a second of CPU, and with so many the slope is known to a twentieth.
_MOST = 300
_DAY = date(2026, 11, 30)


def bandit(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the regret of Thompson sampling at the first mark, and its slope after the second.

    The slope, Δregret/Δln T, is compared with the constant of Lai & Robbins (1985), below which no
    policy stays in the long run.
    """
    figures: dict[str, Any] = {}
    runs = min(arguments.simulations, _MOST)
    for name, means in SETS.items():
        ours, theirs = (
            np.array(Parallel(arguments.workers)(delayed(run)(means, seed) for seed in range(runs)))
            for run in (_ours, _theirs)
        )
        slope = (ours[:, 2] - ours[:, 1]) / math.log(MARKS[2] / MARKS[1])
        figures |= _with_error(f"regret_{name}", ours[:, 0])
        figures |= _with_error(f"slope_{name}", slope)
        figures |= _with_error(f"mabwiser_{name}", theirs[:, 0])
        figures[f"lai_robbins_{name}"] = round(lai_robbins(means), 3)
        figures[f"slope_ratio_{name}"] = round(float(slope.mean()) / lai_robbins(means), 3)
    return {"bandit": figures | {"runs": runs}}


def _with_error(name: str, values: np.ndarray[Any, Any]) -> dict[str, float]:
    error = values.std(ddof=1) / math.sqrt(len(values))
    return {name: round(float(values.mean()), 3), f"{name}_se": round(float(error), 3)}


def lai_robbins(means: tuple[float, ...]) -> float:
    """Return the least regret per unit of ln T.

    >>> round(lai_robbins((0.3, 0.6)), 2)
    1.63
    """
    best = max(means)
    return sum((best - mean) / _divergence(mean, best) for mean in means if mean < best)


def _divergence(first: float, second: float) -> float:
    success = first * math.log(first / second)
    return success + (1 - first) * math.log((1 - first) / (1 - second))


def _ours(means: tuple[float, ...], seed: int) -> list[float]:
    """Return the regret at each mark, of the shares that the product gives."""
    chance = np.random.default_rng(seed)
    worth = dict(zip("abc", means, strict=False))
    state, lost, students, marks = begun(tuple(worth), _DAY), 0.0, 0, []
    for mark in MARKS:
        while students < mark:
            batch = min(1 if students < MARKS[0] else students // _BATCH, mark - students)
            share = shares(state, seed=int(chance.integers(2**32)), draws=batch)
            numbers = {arm: round(share[arm] * batch) for arm in worth}
            won = {arm: float(chance.binomial(numbers[arm], worth[arm])) for arm in worth}
            state = state.learned(
                [Cohort(_DAY, arm, 1.0, *[numbers[arm]] * 3, won[arm]) for arm in worth], _DAY
            )
            lost += sum(number * (max(means) - worth[arm]) for arm, number in numbers.items())
            students += batch
        marks.append(lost)
    return marks


def _theirs(means: tuple[float, ...], seed: int) -> list[float]:
    """Return the regret at the first mark, of mabwiser's loop as its documentation writes it."""
    chance = np.random.default_rng(seed)
    arms = list(range(len(means)))
    peer = MAB(arms, LearningPolicy.ThompsonSampling(), seed=seed)
    arm, lost = int(chance.choice(arms)), 0.0
    for student in range(MARKS[0]):
        learn = peer.partial_fit if student else peer.fit
        learn([arm], [int(chance.random() < means[arm])])
        lost += max(means) - means[arm]
        arm = peer.predict()
    return [lost]
