"""Which share of the next students each arm gets, if students benefit during the experiment.

The bandit learns from every student who was ever given an arm, by day, arm and probability
(`Cohort`), and from the sum of the known rewards. A student counts as assigned at once and
as a reward when the outcome arrives, however late. Shares depend on these counts and a seed only:
the same records give the same shares, and so does a state that was stored.

Policies are mabwiser's: Thompson sampling (Thompson 1933; its regret grows like the bound of Lai &
Robbins, Kaufmann et al. 2012) and UCB1 (Auer et al. 2002).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from grade_ml.core.errors import ExperimentError
from grade_ml.core.optional import needed
from grade_ml.experiments.plan import Plan, Policy
from grade_ml.experiments.store import Allocation

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

#: Rewards are rounded to steps of 2^-20 (1e-6). Doubles hold sums of them over 10^9 students
#: exactly, so that sums and shares do not depend on the order in which rewards arrive.
_STEP = 2.0**-20
#: Draws from the posterior: a share has a standard error of at most .005. More make no difference,
#: because a day brings tens of students.
DRAWS = 10_000
#: Width of UCB1's bonus, for which its bound on regret is proved. mabwiser's default, .05, hardly
#: explores.
_BONUS = 1.0


@dataclass(frozen=True)
class Cohort:
    """The students who were given one arm on one day with one probability.

    Attributes
    ----------
    probability
        Of this arm for each of them, as it was logged, above 0 and at most 1.
    assigned, exposed, labelled
        How many they are, on how many the arm has taken effect, and of how many of these the reward
        is known.
    reward
        Sum of the known rewards, each 0-1.
    """

    day: date
    arm: str
    probability: float
    assigned: int
    exposed: int = 0
    labelled: int = 0
    reward: float = 0.0

    @property
    def figures(self) -> tuple[int, int, int, float]:
        """The counts and the sum of rewards of its students."""
        return self.assigned, self.exposed, self.labelled, self.reward

    @property
    def key(self) -> tuple[date, str, float]:
        """The values that identify the cohort."""
        return self.day, self.arm, self.probability

    def plus(self, other: Cohort) -> Cohort:
        """Return the sum of the two cohorts."""
        return replace(
            self,
            assigned=self.assigned + other.assigned,
            exposed=self.exposed + other.exposed,
            labelled=self.labelled + other.labelled,
            reward=self.reward + other.reward,
        )


@dataclass(frozen=True)
class Totals:
    """The totals of one arm: see `Cohort`."""

    assigned: int = 0
    exposed: int = 0
    labelled: int = 0
    reward: float = 0.0

    @property
    def pending(self) -> int:
        """Students on whom it took effect and whose reward is still to come."""
        return self.exposed - self.labelled

    @property
    def mean(self) -> float:
        """Mean of the known rewards; NaN if none is known."""
        return self.reward / self.labelled if self.labelled else float("nan")


@dataclass(frozen=True)
class State:
    """Everything that shares follow from; `cohorts` in order of day, arm and probability."""

    arms: tuple[str, ...]
    as_of: date
    cohorts: tuple[Cohort, ...] = ()

    @property
    def totals(self) -> dict[str, Totals]:
        """The totals of each arm, also of an arm without students."""
        totals = {arm: Totals() for arm in self.arms}
        for cohort in self.cohorts:
            so_far = totals[cohort.arm]
            totals[cohort.arm] = Totals(
                so_far.assigned + cohort.assigned,
                so_far.exposed + cohort.exposed,
                so_far.labelled + cohort.labelled,
                so_far.reward + cohort.reward,
            )
        return totals

    def learned(self, batch: Iterable[Cohort], as_of: date) -> State:
        """Return the state after a batch: students who were assigned, and rewards that arrived.

        Parameters
        ----------
        batch
            What is new. A reward that arrives later has `assigned` 0 and the day, arm and
            probability of its student.

        Raises
        ------
        ExperimentError
            A day lies after `as_of` or `as_of` before the state's, an arm is not (or no longer) of
            the experiment, a probability or a reward is impossible, or there are more rewards than
            students.
        """
        if as_of < self.as_of:
            raise ExperimentError(
                f"The bandit has learned until {self.as_of} and cannot learn as of {as_of}.",
                "Set the clock, or GRADE_ML_AS_OF, to that day or later.",
            )
        by_key = {cohort.key: cohort for cohort in self.cohorts}
        for cohort in batch:
            self._check(cohort, as_of)
            by_key[cohort.key] = by_key[cohort.key].plus(cohort) if cohort.key in by_key else cohort
        for cohort in by_key.values():
            if not cohort.assigned >= cohort.exposed >= cohort.labelled:
                raise ExperimentError(
                    f"Of {cohort.assigned} students who were given the arm {cohort.arm!r} on "
                    f"{cohort.day}, it took effect on {cohort.exposed}, and "
                    f"{cohort.labelled} rewards are known.",
                    "Report a student's assignment and exposure no later than the reward, and each "
                    "only once.",
                )
        return State(self.arms, as_of, tuple(by_key[key] for key in sorted(by_key)))

    def _check(self, cohort: Cohort, as_of: date) -> None:
        about = f"the arm {cohort.arm!r} on {cohort.day}"
        if cohort.arm not in self.arms:
            raise ExperimentError(
                f"Students were given {about}, and the arms are {', '.join(self.arms)}.",
                "An arm cannot be removed while an experiment runs: stop it and create another.",
            )
        if cohort.day > as_of:
            raise ExperimentError(
                f"Students were given {about}, after {as_of}.",
                "Set the clock, or GRADE_ML_AS_OF, to that day or later.",
            )
        # Written so that NaN does not pass.
        if not 0 < cohort.probability <= 1:
            raise ExperimentError(
                f"Students were given {about} with the probability {cohort.probability:g}.",
                "A probability lies above 0 and is at most 1; correct the assignments.",
            )
        least = min(cohort.assigned, cohort.exposed, cohort.labelled)
        if least < 0 or not 0 <= cohort.reward <= cohort.labelled:
            raise ExperimentError(
                f"{cohort.labelled} rewards of {about} add up to {cohort.reward:g}.",
                "A reward lies between 0 and 1: divide scores by 100, and leave out what is "
                "unknown.",
            )


def begun(arms: Sequence[str], as_of: date) -> State:
    """Return the state before anything is learned.

    Raises
    ------
    ExperimentError
        There are fewer than two arms, or two arms have the same name.
    """
    if len(arms) < 2 or len(set(arms)) < len(arms):
        raise ExperimentError(
            f"A bandit chooses between two arms or more, and it has {', '.join(arms) or 'none'}.",
            "Give it two arms of different names.",
        )
    return State(tuple(arms), as_of)


def cohorts(history: pd.DataFrame) -> list[Cohort]:
    """Return the cohorts of students.

    Parameters
    ----------
    history
        One row per student: assigned_on (a date), arm, probability, exposed (whether the arm has
        taken effect), and reward (0-1; NaN until it is known).

    Raises
    ------
    ExperimentError
        A reward lies outside 0-1, or a probability is unknown.
    """
    reward = history["reward"].astype("float64")
    wrong = reward[~(reward.between(0, 1) | reward.isna())]
    if len(wrong):
        raise ExperimentError(
            f"{len(wrong)} of {len(reward)} rewards lie outside 0 to 1, the first is "
            f"{wrong.iloc[0]:g}.",
            "Divide scores by 100, and correct the others.",
        )
    if history["probability"].isna().any():
        raise ExperimentError(
            f"Of {int(history['probability'].isna().sum())} students the probability of the arm is "
            "unknown.",
            "Correct the assignments, or leave these students out.",
        )
    rows = history.assign(reward=(reward / _STEP).round() * _STEP)
    grouped = rows.groupby(["assigned_on", "arm", "probability"], as_index=False).agg(
        assigned=("arm", "size"),
        exposed=("exposed", "sum"),
        labelled=("reward", "count"),
        total=("reward", "sum"),
    )
    return [
        Cohort(day, str(arm), float(chance), int(assigned), int(exposed), int(labelled), total)
        for day, arm, chance, assigned, exposed, labelled, total in grouped.itertuples(index=False)
    ]


def shares(
    state: State,
    policy: Policy = Policy.THOMPSON,
    *,
    least_share: float = 0.0,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, float]:
    """Return which share of the next students each arm gets; they add up to 1.

    Parameters
    ----------
    least_share
        What each arm keeps at any rewards: without it nothing more is learned about an arm that
        began badly, and its value cannot be estimated from the others' students.
    draws
        How often Thompson sampling chooses. With n, the shares times n are the choices for n
        students; 1 is the textbook's choice for the next student.

    Raises
    ------
    ExperimentError
        The arms cannot each keep `least_share`.
    MissingLibraryError
        mabwiser is not installed.
    """
    if not 0 <= least_share * len(state.arms) <= 1:
        raise ExperimentError(
            f"{len(state.arms)} arms cannot each keep {least_share:g} of the students.",
            f"The least share is at most {1 / len(state.arms):.3g} with so many arms.",
        )
    chosen = _thompson(state, seed, draws) if policy is Policy.THOMPSON else _ucb(state)
    free = 1 - least_share * len(state.arms)
    return {arm: least_share + free * share for arm, share in chosen.items()}


def capped(shares: Mapping[str, float], arm: str, most: float) -> dict[str, float]:
    """Return shares of which one arm has no more than `most`; the others get what is over.

    >>> capped({"standard": 0.25, "none": 0.75}, "none", 0.5)
    {'standard': 0.5, 'none': 0.5}
    """
    over = max(shares[arm] - most, 0.0)
    rest = 1 - shares[arm]
    return {
        name: share - over if name == arm else share + over * share / rest
        for name, share in shares.items()
    }


def _thompson(state: State, seed: int, draws: int) -> dict[str, float]:
    """Return how often each arm is the best in draws from the posterior.

    The prior is uniform. A reward between 0 and 1 counts as that part of a success. That keeps the
    mean and widens the posterior, for no rewards of this mean vary more than zeros and ones do.
    """
    needed("bandits")
    from mabwiser.mab import MAB, LearningPolicy

    known = state.totals.values()
    binary = all(totals.reward.is_integer() for totals in known)
    policy = LearningPolicy.ThompsonSampling(None if binary else _as_it_is)
    rewards = np.concatenate([_summing_to(totals.reward, totals.labelled) for totals in known])
    bandit = MAB(list(state.arms), policy, seed=seed)
    bandit.fit(np.repeat(state.arms, [totals.labelled for totals in known]), rewards)
    # With one context it answers with an arm, with several with a list.
    picked = bandit.predict(np.zeros((draws, 1)))
    picked = [picked] if draws == 1 else picked
    return {arm: picked.count(arm) / draws for arm in state.arms}


def _as_it_is(_arm: str, reward: float) -> float:
    return reward


def _summing_to(total: float, number: int) -> Floats:
    """Return ones, one remainder and zeros: so many rewards with exactly this sum."""
    return np.clip(total - np.arange(number), 0, 1)


def _ucb(state: State) -> dict[str, float]:
    """Return 1 for the arm with the highest mean plus bonus; equal shares until all have a mean.

    A student whose reward is still to come counts with the arm's mean (Desautels et al. 2014):
    otherwise all students go to one arm until its first rewards arrive.
    """
    needed("bandits")
    from mabwiser.mab import MAB, LearningPolicy

    known = state.totals
    if not all(totals.labelled for totals in known.values()):
        return dict.fromkeys(state.arms, 1 / len(state.arms))
    numbers = [totals.exposed for totals in known.values()]
    bandit = MAB(list(state.arms), LearningPolicy.UCB1(_BONUS))
    bandit.fit(
        np.repeat(state.arms, numbers),
        np.repeat([totals.mean for totals in known.values()], numbers),
    )
    best = bandit.predict()
    return {arm: float(arm == best) for arm in state.arms}


def stored(state: State) -> dict[str, dict[str, Any]]:
    """Return the state by arm, as JSON values; `restored` reads it."""
    return {
        arm: {
            "cohorts": [
                [cohort.day.isoformat(), cohort.probability, *cohort.figures]
                for cohort in state.cohorts
                if cohort.arm == arm
            ]
        }
        for arm in state.arms
    }


def restored(stored_state: Mapping[str, Mapping[str, Any]], as_of: date) -> State:
    """Return the state that `stored` wrote on a day; the order of `kept` is that of the arms."""
    batch = [
        Cohort(date.fromisoformat(day), arm, *figures)
        for arm, state in stored_state.items()
        for day, *figures in state["cohorts"]
    ]
    return begun(tuple(stored_state), as_of).learned(batch, as_of)


def in_force(allocations: Iterable[Allocation], plan: Plan, day: date) -> dict[str, float]:
    """Return the shares by which students are assigned on a day, by arm.

    They are the newest shares of an earlier day, or the plan's: rewards of a day count from the
    next day, so that all students of one day are assigned by the same shares.
    """
    probabilities = {arm.name: arm.share for arm in plan.arms}
    for allocation in sorted(allocations, key=lambda allocation: allocation.as_of):
        if allocation.as_of < day:
            probabilities[allocation.arm] = allocation.probability
    return probabilities


def expected_shares(
    days: Sequence[date], kept: Sequence[Allocation], plan: Plan
) -> dict[str, float]:
    """Return which share of all assigned students each arm should have, by the shares in force.

    Students are counted, and not outcomes: if the outcomes of an arm were late, the arm would
    seem to have been given too rarely.

    Parameters
    ----------
    days
        On which each student was assigned; none: the plan's shares are expected.
    """
    if not days:
        return in_force((), plan, date.min)
    expected = dict.fromkeys((arm.name for arm in plan.arms), 0.0)
    for day, number in Counter(days).items():
        for arm, share in in_force(kept, plan, day).items():
            expected[arm] += share * number / len(days)
    return expected
